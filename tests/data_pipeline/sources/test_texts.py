"""The beginnings and ends of documents. CPU, seconds."""

import json
from pathlib import Path

import pytest

from data_pipeline.samples.records import Record
from data_pipeline.sources import texts
from data_pipeline.sources.readers import SourceOptions, read_records


def documents(path: Path, content: str = "") -> list[Record]:
    if content:
        path.write_text(content)
    return list(read_records("text", str(path), SourceOptions()))


def test_an_empty_line_at_the_beginning_or_end_does_not_make_one_document_of_all_lines(tmp_path: Path) -> None:
    found = documents(tmp_path / "a.txt", "\ndoc one\ndoc two\ndoc three\n\n")
    assert [record.text for record in found] == ["doc one", "doc two", "doc three"]


def test_empty_lines_separate_documents_if_one_stands_in_the_first_thousand_lines(tmp_path: Path) -> None:
    assert len(documents(tmp_path / "a.txt", "first\n" * 998 + "\n" + "second\n" * 5000)) == 2
    assert len(documents(tmp_path / "a.txt", "first\n" * 1000 + "\n" + "second\n" * 5000)) == 6000


def test_a_document_that_is_too_long_is_cut_at_a_line_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "LONGEST_DOCUMENT", 10)
    found = documents(tmp_path / "a.txt", "12345\n12345\n1\n\n" + "x" * 20 + "\n2\n")
    assert [record.text for record in found] == ["12345\n12345", "1", "x" * 20, "2"]
    assert [record.key for record in found] == [f"{number:08d}" for number in range(4)]


def article(number: int, begin: str, text: str, end: str = "</doc>\n") -> str:
    return f'<doc id="{number}" {begin}>\n{text}\n\n{end}'


def test_wiki_documents_are_recognized_with_revisions_and_quotes_in_their_titles(tmp_path: Path) -> None:
    url = 'url="https://en.wikipedia.org/wiki?curid=12"'
    content = article(12, f'revid="7" {url} title="Anarchism"', "Anarchism\n\nA philosophy.")
    content += "between\n" + article(25, f'{url} title="The "Autism" film"', 'The "Autism" film\n\nA film.')
    found = documents(tmp_path / "wiki_00", content)
    assert [(record.name, record.text, record.metadata.get("title"), record.problem) for record in found] == [
        ("12", "A philosophy.", "Anarchism", None),
        ("line 7", None, None, "text outside of a <doc> element"),
        ("25", "A film.", 'The "Autism" film', None),
    ]


def test_wiki_documents_without_an_end_are_kept(tmp_path: Path) -> None:
    content = article(1, 'url="" title="A"', "A\n\nfirst", end="") + article(2, 'url="" title="B"', "B\n\nlast", end="")
    assert [(record.key, record.text) for record in documents(tmp_path / "wiki_00", content)] == [
        ("1", "first"),
        ("2", "last"),
    ]


def test_text_escaped_by_wiki_extractor_is_unescaped(tmp_path: Path) -> None:
    content = article(1, 'url="" title="AT&amp;T"', "AT&amp;T\n\nR&amp;D &lt; 5 &gt; 3")
    (record,) = documents(tmp_path / "wiki_00", content)
    assert record.text == "R&D < 5 > 3" and record.metadata == {"title": "AT&T"}


def test_a_line_of_json_without_text_is_skipped_but_for_the_first(tmp_path: Path) -> None:
    lines = [{"text": None}, {"text": "one"}, {"text": 5}, {"url": "a"}, {"text": "half \ud83d"}]
    (tmp_path / "AA").mkdir()
    (tmp_path / "AA" / "wiki_00").write_text("\n".join(map(json.dumps, lines)))
    no_text = "line has no text in field 'text'"
    assert [(record.key, record.text, record.problem) for record in documents(tmp_path)] == [
        ("AA_wiki_00_00000000", None, f"{no_text} (None)"),
        ("AA_wiki_00_00000001", "one", None),
        ("AA_wiki_00_00000002", None, f"{no_text} (5)"),
        ("AA_wiki_00_00000003", None, f"{no_text} (it has: url)"),
        ("AA_wiki_00_00000004", "half \ud83d", None),
    ]
    with pytest.raises(
        ValueError, match=r"\(line 1: line has no text in field 'text' \(it has: url\)\); name another with"
    ):
        documents(tmp_path / "a.jsonl", json.dumps({"url": "a"}))


def test_a_line_that_is_not_json_is_skipped_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    bad_lines = ['{"text": ' + "1" * 5000 + "}", "[1]", "{", "[" * 200_000, '{"text": NaN}']
    found = documents(path, '{"text": "one"}\n' + "\n".join(bad_lines) + '\n{"text": "two"}\n')
    assert [record.text for record in found if not record.problem] == ["one", "two"]
    assert [record.place for record in found if record.problem] == [f"{path}:{number}" for number in range(2, 7)]
