"""Fields of the entries of tasks: image paths, and texts that may be token ids."""

from pathlib import Path

import pytest

from data_pipeline.sources.annotated import AnnotatedFields, Unique
from data_pipeline.sources.entries import EntryError

FIELDS = AnnotatedFields(Path("/images"), "picture", "question", decode=lambda ids: " ".join(map(str, ids)))


def test_microsofts_fields_come_before_those_that_were_named() -> None:
    line = {"picture": "a.jpg", "image2": "b.jpg", "question": "what?"}
    assert (FIELDS.image_name(line), FIELDS.image_name(line, second=True)) == ("a.jpg", "b.jpg")
    assert FIELDS.text_in(line) == "what?"
    theirs = line | {"image_path": "c.jpg", "image2_path": "d.jpg", "text_segment": [5, 6]}
    assert (FIELDS.image_name(theirs), FIELDS.image_name(theirs, second=True)) == ("c.jpg", "d.jpg")
    assert FIELDS.text_in(theirs) == "5 6"


@pytest.mark.parametrize("ids", [[], ["a"], [True], "what?", None])
def test_token_ids_that_are_not_ids_are_named(ids: object) -> None:
    with pytest.raises(EntryError, match="'text_segment' is "):
        FIELDS.text_in({"text_segment": ids})


def test_an_entry_that_is_no_object_and_an_image_at_a_url_are_named() -> None:
    with pytest.raises(EntryError, match="entry is not a JSON object"):
        FIELDS.image_name([1])
    with pytest.raises(EntryError, match="image is a URL"):
        FIELDS.image_name({"picture": "https://example.com/a.jpg"})


@pytest.mark.parametrize("number", [[1], None, True, 1.5, {}])
def test_an_id_is_a_number_or_a_text(number: object) -> None:
    with pytest.raises(EntryError, match="question id is neither a number nor a text"):
        Unique("question id").add(number)


def test_an_id_may_occur_once() -> None:
    ids = Unique("question id")
    ids.add(1)
    ids.add("1")
    with pytest.raises(EntryError, match=r"question id occurs twice \(1\)"):
        ids.add(1)
