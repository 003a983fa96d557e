"""Documents: plain text, JSON lines, WikiExtractor's output, and tars of such files."""

import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_pipeline.samples.records import Record
from data_pipeline.shards.tar_members import UNUSABLE, TarError, TarReader
from data_pipeline.sources.compression import PEEKED_BYTES, decompressed, open_bytes
from data_pipeline.sources.entries import Entry, EntryError, RefusedFileError, records_of_entries, records_of_files
from data_pipeline.sources.files import form, is_hidden, walk
from data_pipeline.sources.text_lines import LONG_LINE_PROBLEM, LongLine, TextLines, is_tar, json_entries, text_of
from data_pipeline.sources.wiki_extractor import is_wiki_begin, is_wiki_json, texts_of_wiki_extractor, wiki_article

TEXT_FORMS = (".txt", ".jsonl", ".json", "", ".tar")
"""Forms of text files. WikiExtractor's wiki_00 has no suffix, and holds JSON lines with --json."""
LINES_PROBED = 1000
CHARACTERS_PROBED = 1 << 24
"""Size of the beginning of a file that decides its layout."""
LONGEST_DOCUMENT = 1_000_000
"""Maximum characters of plain text between empty lines that become one document."""
DEEPEST_TAR = 2
"""Maximum depth of nested tars: OpenWebText is a tar of compressed tars."""


def texts_of_folder(folder: Path, column: str) -> Iterator[Record]:
    """Yield the documents of all text files at any depth (WikiExtractor: AA/wiki_00, AA/wiki_01, ...).

    Other files, and those that cannot be read, become records with a problem.
    """
    return records_of_files(walk(folder, with_special=True), folder, partial(_texts_in_folder, folder, column=column))


def _texts_in_folder(folder: Path, name: str, *, column: str) -> Iterator[Record]:
    if problem := _problem_of_name(name):
        yield Record(name, problem=problem, place=str(folder / name))
        return
    for record in texts_of_file(folder / name, column):
        yield replace(record, name=f"{name}/{record.name}")


def _problem_of_name(name: str) -> str:
    if is_hidden(name):
        return "file is hidden"
    return "" if form(name) in TEXT_FORMS else f"file is not read as text by its name ({', '.join(TEXT_FORMS[:3])} are)"


def texts_of_file(path: Path, column: str) -> Iterator[Record]:
    """Yield the documents of one file: of <doc> elements, JSON lines, a tar, or plain lines.

    Raises RefusedFileError if the file is not text, is damaged, or has no text in `column`.
    """
    with open_bytes(path) as stream:
        yield from texts_of_stream(stream, path.name, str(path), column)


def texts_of_stream(stream: io.BufferedReader, name: str, place: str, column: str, depth: int = 0) -> Iterator[Record]:
    """Yield the documents of a stream. name: of the file, which distinguishes JSON from lines. place: for messages."""
    if is_tar(stream.peek(PEEKED_BYTES)):
        if depth == DEEPEST_TAR:
            raise RefusedFileError(place, f"is a tar inside {DEEPEST_TAR} others")
        yield from _texts_of_tar(stream, place, column, depth)
        return
    text = TextLines(stream, place)
    if form(name) == ".json" and text.first_character == "[":
        yield from _texts_of_json_list(text.read(), name, place, column)
        return
    lines = iter(text)
    beginning = _beginning(lines)
    lines = itertools.chain(beginning, lines)
    first = next((line for line in beginning if line.strip()), "")
    if not first:
        yield Record("0", problem="file holds no text", place=place)
    elif is_wiki_begin(first):
        yield from texts_of_wiki_extractor(lines, place)
    elif form(name) in (".jsonl", ".json") or (form(name) == "" and first.startswith("{")):
        yield from _texts_of_json_lines(lines, name, place, column)
    else:
        yield from _texts_of_plain_text(beginning, lines, place)


def _beginning(lines: Iterator[str]) -> list[str]:
    """Return the lines that decide the layout of a file."""
    beginning, length = list[str](), 0
    for line in lines:
        beginning.append(line)
        length += len(line)
        if len(beginning) == LINES_PROBED or length > CHARACTERS_PROBED:
            break
    return beginning


def _texts_of_tar(stream: io.BufferedReader, place: str, column: str, depth: int) -> Iterator[Record]:
    """Yield the documents of the text files of a tar, in its order, as for a folder."""
    reader = TarReader(stream, place)
    try:
        for member in reader:
            here = f"{place}: {member.name}"
            problem = _problem_of_name(member.name)
            if member.kind != "file":
                problem = UNUSABLE[member.kind]
            if problem:
                yield Record(member.name, problem=problem, place=here)
                continue
            try:
                with decompressed(reader.open(), member.name, here) as content:
                    for record in texts_of_stream(content, member.name, here, column, depth + 1):
                        yield replace(record, name=f"{member.name}/{record.name}")
            except RefusedFileError as error:
                yield Record(member.name, problem=error.problem, place=here)
    except TarError as error:
        raise RefusedFileError(place, "is a damaged tar", str(error), remedy="download it again") from error


def _texts_of_json_lines(lines: Iterable[str], name: str, place: str, column: str) -> Iterator[Record]:
    entries = json_entries(lines, place)
    return records_of_entries(entries, partial(_documents, file=name, column=column), _refusal(place, column))


def _texts_of_json_list(text: str, name: str, place: str, column: str) -> Iterator[Record]:
    """Yield the documents of a JSON list of objects or texts."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedFileError(place, "is not valid JSON", str(error), remedy="rename JSON lines to .jsonl") from error
    entries = (Entry(f"{number:08d}", f"{place}: [{number}]", entry) for number, entry in enumerate(content))
    return records_of_entries(entries, partial(_documents, file=name, column=column), _refusal(place, column))


def _refusal(place: str, column: str) -> Callable[[str], Exception]:
    remedy = "name another with --text-column, if there is one"
    return lambda first: RefusedFileError(place, f"has no JSON with text in field {column!r}", first, remedy)


def _documents(entry: Entry, file: str, column: str) -> list[Record]:
    """Return the document of an entry, in a list."""
    content = entry.content
    if isinstance(content, str):
        return [Record(entry.name, text=content, place=entry.place)]
    if not isinstance(content, dict):
        raise EntryError("entry is neither a JSON object nor a text")
    text = text_of(content, column)
    if is_wiki_json(content, file):
        return [wiki_article(entry.name, content, text, entry.place)]
    return [Record(entry.name, text=text, place=entry.place)]


def _texts_of_plain_text(beginning: list[str], lines: Iterable[str], place: str) -> Iterator[Record]:
    """Yield documents separated by empty lines (BookCorpus; OpenWebText has one per file), or one document per line.

    Empty lines separate documents if there is one between two texts in the first 1,000 lines. A document of more than
    1,000,000 characters is cut into several at line ends.
    """
    has_empty_line = " " in "".join("x" if line.strip() else " " for line in beginning).strip()
    longest = LONGEST_DOCUMENT if has_empty_line else 0
    number, length, begin, document = 0, 0, 0, list[str]()
    for line_number, line in enumerate(itertools.chain(lines, [""]), 1):
        text, is_long = line.strip(), type(line) is LongLine
        if document and (not text or is_long or length + len(text) > longest):
            yield Record(f"{number:08d}", text="\n".join(document), place=f"{place}:{begin}")
            number, length, document = number + 1, 0, []
        if is_long:
            yield Record(f"{number:08d}", problem=LONG_LINE_PROBLEM, place=f"{place}:{line_number}")
            number += 1
        elif text:
            begin = begin if document else line_number
            document.append(text)
            length += len(text)
