"""Documents: plain text, JSON lines, and what WikiExtractor leaves."""

import html
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from data_pipeline.sources.files import form, json_lines, line_without_text, open_text, walk
from data_pipeline.sources.records import Record

WIKI_BEGIN = re.compile(r'<doc id="([^"]*)".*? title="(.*)">\s*$')
TEXT_FORMS = (".txt", ".jsonl", ".json", "")
"""Of the files of a folder of texts; WikiExtractor's wiki_00 have no suffix, with --json they hold JSON lines."""
LINES_TO_TELL = 1000
LONGEST_DOCUMENT = 1_000_000
"""Characters of plain text between empty lines that become one document."""


def texts_of_folder(folder: Path, column: str) -> Iterator[Record]:
    """The documents of all text files at any depth (WikiExtractor: AA/wiki_00, AA/wiki_01, ...)."""
    for name in walk(folder):
        if form(name) in TEXT_FORMS:
            for record in texts_of_file(folder / name, column):
                yield replace(record, name=f"{name}/{record.name}")


def texts_of_file(path: Path, column: str) -> Iterator[Record]:
    """The documents of one file, by what it holds: <doc> elements, JSON lines, or lines."""
    with open_text(path) as lines:
        beginning = next((line for line in lines if line.strip()), "")
    if WIKI_BEGIN.match(beginning):
        yield from texts_of_wiki_extractor(path)
    elif form(path) in (".jsonl", ".json") or (form(path) == "" and beginning.startswith("{")):
        yield from texts_of_json_lines(path, column)
    else:
        yield from texts_of_plain_text(path)


def texts_of_wiki_extractor(path: Path) -> Iterator[Record]:
    """<doc id="12" url="..." title="Anarchism"> ... </doc>, the title's line left out of the text.

    The extractor escapes text and title as HTML. A document without its </doc> ends where the next begins or the file
    ends.
    """
    name, title, document = "", "", None
    with open_text(path) as lines:
        for line in itertools.chain(lines, ["</doc>"]):
            begin = WIKI_BEGIN.match(line)
            if begin or line.startswith("</doc>"):
                if document is not None:
                    yield _article(name, html.unescape(title), html.unescape("".join(document)))
                document = None
            if begin:
                (name, title), document = begin.groups(), list[str]()
            elif document is not None:
                document.append(line)


def _article(name: str, title: str, text: str) -> Record:
    first, _, rest = text.strip().partition("\n")
    return Record(name, text=rest.strip() if first.strip() == title else text.strip(), metadata={"title": title})


def texts_of_json_lines(path: Path, column: str) -> Iterator[Record]:
    """The field `column` of each line."""
    for number, line in json_lines(path):
        if isinstance(line.get(column), str):
            yield Record(f"{number:08d}", text=line[column])
        else:
            yield line_without_text(path, number, line, column)


def texts_of_plain_text(path: Path) -> Iterator[Record]:
    """Documents with an empty line between them (BookCorpus, OpenWebText: one a file), or a document a line.

    Empty lines separate documents if one stands between two texts among the first 1,000 lines. What lies between two
    of them and is longer than 1,000,000 characters becomes several documents, cut where lines end.
    """
    with open_text(path) as lines:
        beginning = list(itertools.islice(lines, LINES_TO_TELL))
        has_empty_line = " " in "".join("x" if line.strip() else " " for line in beginning).strip()
        longest = LONGEST_DOCUMENT if has_empty_line else 0
        number, length, document = 0, 0, list[str]()
        for line in itertools.chain(beginning, lines, [""]):
            text = line.strip()
            if document and (not text or length + len(text) > longest):
                yield Record(f"{number:08d}", text="\n".join(document))
                number, length, document = number + 1, 0, []
            if text:
                document.append(text)
                length += len(text)
