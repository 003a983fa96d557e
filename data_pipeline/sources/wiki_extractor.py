"""Output of WikiExtractor and its relatives: <doc> elements, or with --json one JSON line per article.

Text and title are HTML-escaped in both. Source: github.com/attardi/wikiextractor. Version 2 puts the title before the
text in both forms, version 3 only in the first; cirrus-extract.py writes more attributes after the title.
"""

import html
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from data_pipeline.samples.records import Record
from data_pipeline.sources.text_lines import LONG_LINE_PROBLEM, LongLine

LONGEST_BEGIN = 10_000
"""Maximum characters of a line that begins a <doc>."""
OUTSIDE_PROBLEM = "text outside of a <doc> element"
_FILE = re.compile(r"(.*/)?wiki_\d+(\.|$)")
_BEGIN = re.compile(r"<doc(\s.*)?>\s*$")
_ATTRIBUTE = re.compile(r"\s(\w+)=([\"'])(.*?)\2(?=\s+\w+=[\"']|\s*>\s*$)")
"""Matches an attribute up to the next: quotes inside a title are not always escaped."""


def is_wiki_begin(line: str) -> bool:
    return len(line) <= LONGEST_BEGIN and _BEGIN.match(line) is not None


def is_wiki_json(entry: Mapping[str, Any], file: str) -> bool:
    """Return whether an entry is from WikiExtractor --json, by its file name or the form of its URL."""
    if not {"id", "url", "title", "text"} <= set(entry):
        return False
    return _FILE.match(file) is not None or str(entry["url"]).endswith(f"?curid={entry['id']}")


def texts_of_wiki_extractor(lines: Iterable[str], place: str) -> Iterator[Record]:
    """Yield the texts of <doc id="12" url="..." title="Anarchism"> ... </doc>, without the line of the title.

    A document without </doc> ends where the next begins or the file ends. Text outside of documents is counted.
    """
    attributes: dict[str, str] | None = None
    gathered, begin = list[str](), 0
    for number, line in enumerate(itertools.chain(lines, ["</doc>"]), 1):
        begins, ends = is_wiki_begin(line), line.rstrip().endswith("</doc>")
        if not begins and (attributes is not None or line.strip()):
            begin = begin if gathered or attributes is not None else number
            gathered.append(line)
        if begins or ends:
            if ends and not begins:
                gathered[-1] = gathered[-1].rstrip().removesuffix("</doc>")
            if attributes is not None or "".join(gathered).strip():
                yield _document(attributes, gathered, f"{place}:{begin}", begin)
            attributes, gathered = None, []
        if begins:
            attributes, begin = {name: value for name, _, value in _ATTRIBUTE.findall(line)}, number


def _document(attributes: dict[str, str] | None, lines: list[str], place: str, number: int) -> Record:
    """Return a document. attributes: None for lines outside of an element. number: of the first line."""
    if attributes is None:
        return Record(f"line {number}", problem=OUTSIDE_PROBLEM, place=place)
    name = attributes.get("id", f"{number:08d}")
    if any(isinstance(line, LongLine) for line in lines):
        return Record(name, problem=LONG_LINE_PROBLEM, place=place)
    return wiki_article(name, attributes, "".join(lines), place)


def wiki_article(name: str, attributes: Mapping[str, Any], text: str, place: str = "") -> Record:
    """Return the record of an article, unescaped and without its title line. attributes: as in the file."""
    title, text = attributes.get("title"), html.unescape(text).strip()
    if not isinstance(title, str):
        return Record(name, text=text, place=place)
    title = html.unescape(title)
    first, _, rest = text.partition("\n")
    if first.strip() in (title, f"<h1>{title}</h1>"):  # the second with --html
        text = rest.strip()
    return Record(name, text=text, metadata={"title": title}, place=place)
