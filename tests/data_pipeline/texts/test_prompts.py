"""Class names and templates, and mistakes in their files. CPU, milliseconds."""

from pathlib import Path

import pytest

from data_pipeline.texts.prompts import DEFAULT_TEMPLATES, prompts, read_class_names, read_templates


def test_folders_are_names_unless_a_file_has_others(tmp_path: Path) -> None:
    classes = ["n01440764", "tree_frog"]
    lines, json = tmp_path / "names.txt", tmp_path / "names.json"
    lines.write_text("tench\n\nfrog of a tree\n")
    json.write_text('{"tree_frog": "frog", "n01440764": " tench ", "unused": "owl"}')
    assert read_class_names(None, ["cat", "tree_frog"]) == ["cat", "tree frog"]
    assert read_class_names(lines, classes) == ["tench", "frog of a tree"]
    assert read_class_names(json, classes) == ["tench", "frog"]


def test_each_class_has_a_text_per_template(tmp_path: Path) -> None:
    path = tmp_path / "templates.txt"
    path.write_text("a {}.\n{} and {}\n")
    assert prompts(["cat", "dog"], read_templates(path)) == ["a cat.", "cat and cat", "a dog.", "dog and dog"]
    assert read_templates(None) == DEFAULT_TEMPLATES and all("{}" in template for template in DEFAULT_TEMPLATES)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"one\n", "has 1 names for 2 classes; give one per line"),
        ("a.txt", b"\n \n", "is empty"),
        ("a.txt", b"caf\xe9\nb\n", "is not UTF-8"),
        ("a.json", b'{"cat": "a cat"}', "has no name for the class 'dog'; add it"),
        ("a.json", b'{"cat": 1, "dog": "dog"}', "has no name for the class 'cat'"),
        ("a.json", b"cat", "is not valid JSON"),
        ("missing.txt", None, "does not exist; give a file"),
        ("missing.json", None, "does not exist; give a file"),
    ],
)
def test_mistakes_in_class_names_are_named(name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_class_names(tmp_path / name, ["cat", "dog"])


def test_ids_and_templates_without_a_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the class n01440764 is not a word; give evaluation.class_names"):
        read_class_names(None, ["n01440764", "n01443537"])
    (tmp_path / "templates.txt").write_text("a {}\na photo\n")
    with pytest.raises(ValueError, match=r"line 2 has no \{\} for the name of the class \('a photo'\)"):
        read_templates(tmp_path / "templates.txt")
