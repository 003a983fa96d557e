"""Every form in which WikiExtractor and its relatives write articles. CPU, seconds."""

import json
from pathlib import Path

import pytest

from data_pipeline.samples.records import Record
from data_pipeline.sources.readers import SourceOptions, read_records

URL = "https://en.wikipedia.org/wiki?curid=12"
TITLE = 'AT&T "and" sons'
PARAGRAPHS = ["R&D < 5 > 3.", "It has a history."]
ESCAPED = ["R&amp;D &lt; 5 &gt; 3.", "It has a history."]


def documents(path: Path, content: str) -> list[Record]:
    path.write_text(content)
    return list(read_records("text", str(path), SourceOptions()))


def element(header: str, title: str, footer: str = "\n</doc>\n") -> str:
    return f"{header}\n{title}\n\n" + "\n".join(ESCAPED) + "\n" + footer


FORMS = {
    "3.0": element(f'<doc id="12" url="{URL}" title="AT&amp;T "and" sons">', 'AT&amp;T "and" sons'),
    "title escaped": element(
        f'<doc id="12" url="{URL}" title="AT&amp;T &quot;and&quot; sons">', "AT&amp;T &quot;and&quot; sons"
    ),
    "2.5, revisions": element(
        f'<doc id="12" revid="7" url="{URL}" title="AT&amp;T "and" sons">', 'AT&amp;T "and" sons', "\n</doc>"
    ),
    "cirrus-extract": element(
        f'<doc id="12" url="{URL}" title="AT&T "and" sons" language="en" revision="7">', 'AT&T "and" sons'
    ),
    "--html": element(f'<doc id="12" url="{URL}" title="AT&amp;T "and" sons">', '<h1>AT&amp;T "and" sons</h1>'),
    "attributes in another order": element(f'<doc title="AT&T "and" sons" id="12" url="{URL}" >', 'AT&T "and" sons'),
    "single quotes": element(f"<doc id='12' url='{URL}' title='AT&T \"and\" sons'>", 'AT&T "and" sons'),
    "end in the last line": element(
        f'<doc id="12" url="{URL}" title="AT&T "and" sons">', 'AT&T "and" sons', "</doc>\n"
    ),
    "--json 3.0": json.dumps(
        {"id": "12", "revid": "7", "url": URL, "title": 'AT&amp;T "and" sons', "text": "\n".join(ESCAPED)}
    )
    + "\n",
    "--json without URL": json.dumps(
        {"id": "12", "url": "", "title": 'AT&amp;T "and" sons', "text": "\n".join(ESCAPED)}
    ),
    "--json 2.75": json.dumps(
        {
            "id": "12",
            "url": URL,
            "title": 'AT&amp;T "and" sons',
            "text": "\n".join(['AT&amp;T "and" sons', "", *ESCAPED]),
        }
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_article_is_the_same_in_every_form(form: str, tmp_path: Path) -> None:
    for number in (1, 2):
        found = documents(tmp_path / "wiki_00", FORMS[form] * number if FORMS[form].endswith("\n") else FORMS[form])
        for record in found:
            assert (record.text, record.metadata) == ("\n".join(PARAGRAPHS), {"title": TITLE})


def test_a_header_without_a_title_is_not_text(tmp_path: Path) -> None:
    for header in ('<doc id="12">', f'<doc id="12" url="{URL}">', "<doc>"):
        (record,) = documents(tmp_path / "wiki_00", element(header, "AT&amp;T"))
        assert record.text == "\n".join(["AT&T", "", *PARAGRAPHS])


def test_other_json_lines_of_wikipedia_are_taken_as_they_are(tmp_path: Path) -> None:
    line = {"id": "12", "url": "https://en.wikipedia.org/wiki/HTML", "title": "HTML", "text": "HTML\nwrites &amp;"}
    (record,) = documents(tmp_path / "wikipedia.jsonl", json.dumps(line))
    assert record.text == line["text"]


def test_text_outside_of_an_element_is_counted_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "wiki_00"
    article = FORMS["3.0"]
    num_lines = article.count("\n")
    found = documents(path, article + "\nbetween\nand more\n\n" + article + "behind\n")
    assert [record.place for record in found if record.problem] == [
        f"{path}:{num_lines + 2}",
        f"{path}:{2 * num_lines + 5}",
    ]
    assert len(found) == 4


def test_a_header_that_ends_at_once_is_an_empty_article(tmp_path: Path) -> None:
    assert [record.text for record in documents(tmp_path / "wiki_00", "<doc </doc>")] == [""]


def test_a_header_of_a_million_quotes_takes_no_time(tmp_path: Path) -> None:
    found = documents(tmp_path / "wiki_00", '<doc id="' + '" a="' * 1_000_000 + ">\ntext\n</doc>\n")
    assert len(found) == 3  # not the beginning of an article, but lines of text
