"""Options from a command line, by tyro: number ranges are checked and shown in --help, and every mistake is reported in
one sentence that suggests the option that was meant."""

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)

from data_pipeline.settings.ranges import Range, ranges_of
from data_pipeline.settings.suggestions import did_you_mean

Options = TypeVar("Options")
REGISTRY = ConstructorRegistry()
HELP = ("-h", "--help")
WIDE = "10000"
NAME_OF_MISSING = r"^ {6}(\S+)"
IN_OUR_WORDS = {
    r"^Error parsing (--\S+?)(?: \{.*?\})?: ": r"\1 ",
    r"^Error parsing ([A-Z]+)(?: \{.*?\})?: ": r"\1 ",
    r"^Error parsing [\w.-]+: ": "",  # an error of a nested class names its fields itself
    r"^Unrecognized options: (.+)$": r"\1 is one argument too many",
    r"^Missing value for argument '(.+)'\..*": r"\1 needs a value",
}
"""tyro's messages, and ours."""
CHOICE = r"^invalid choice '(.*)' for argument '(.+)'\. Expected one of \((.*)\)\.$"
_asks_tyro = False


class UsageError(ValueError):
    """A mistake in a command line, in one sentence."""


class HelpRequest(Exception):
    """Raised for --help, with the text to print."""


def parse_options(kind: type[Options], arguments: list[str], command: str, default: Options | None = None) -> Options:
    """Return the options from the arguments; those not given come from `default` or the dataclass.

    command: the command as typed, for --help. Raises UsageError, or HelpRequest with the text to print.
    """
    return _call_tyro(kind, arguments, command, default, return_unknown_args=False)


def parse_first_options(kind: type[Options], arguments: list[str], command: str) -> tuple[Options, list[str]]:
    """Return the options and, in order, the arguments that are not options of `kind` but of another class."""
    return _call_tyro(kind, arguments, command, None, return_unknown_args=True)


def _call_tyro(kind: Any, arguments: list[str], command: str, default: Any, return_unknown_args: bool) -> Any:
    output = io.StringIO()
    settings: dict[str, Any] = {"args": arguments, "prog": command, "registry": REGISTRY}
    settings |= {"return_unknown_args": return_unknown_args} | ({} if default is None else {"default": default})
    is_help = any(argument in HELP for argument in arguments)
    try:
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            _columns(None if is_help else WIDE),
        ):
            return tyro.cli(kind, **settings)
    except SystemExit as ending:
        if ending.code in (0, None):
            raise HelpRequest(output.getvalue()) from None
    except ValueError as error:
        raise UsageError(str(error)) from error
    raise UsageError(f"{_one_sentence(output.getvalue(), kind, default)}; {command} --help lists every option")


@contextlib.contextmanager
def _columns(width: str | None) -> Iterator[None]:
    """Set the terminal width: tyro breaks lines, even inside words, from which no sentence could be recovered."""
    before = os.environ.get("COLUMNS")
    os.environ |= {} if width is None else {"COLUMNS": width}
    try:
        yield
    finally:
        if width is not None:
            del os.environ["COLUMNS"]
            os.environ |= {} if before is None else {"COLUMNS": before}


def _one_sentence(panel: str, kind: Any, default: Any) -> str:
    """Return the message in tyro's panel (title, rule, message, rule, help) in our words."""
    sections = re.split(r"^\W*[-\u2500]{5,}\W*$", panel, flags=re.MULTILINE)
    lines = sections[1 if len(sections) > 1 else 0].strip().splitlines()
    message = " ".join(" ".join(lines).split())
    if message.startswith("Missing from"):
        return f"{' and '.join(re.findall(NAME_OF_MISSING, chr(10).join(lines), re.MULTILINE))} must be given"
    if found := re.match(r"Unrecognized options: (--[^\s,=]+)", message):
        return f"there is no option {found[1]}{did_you_mean(found[1], option_names(help_text(kind, '', default)))}"
    for pattern, sentence in IN_OUR_WORDS.items():
        message = re.sub(pattern, sentence, message)
    if found := re.match(CHOICE, message):
        # tyro has them in a set, with None for a field that may be left out
        choices = sorted({*re.findall(r"[^\s',]+", found[3])} - {"None"})
        return f"{found[2]} {found[1]} must be one of {', '.join(choices)}"
    return message


def help_text(kind: Any, command: str, default: Any = None) -> str:
    """Return the text that --help prints."""
    try:
        _call_tyro(kind, ["--help"], command, default, return_unknown_args=False)
    except HelpRequest as text:
        return str(text)
    raise AssertionError("--help gives help")


def option_names(help: str) -> list[str]:
    """Return the names of all options in a help text."""
    return re.findall(r"^ *(?:-h, )?(--[\w.-]*\w)", help, flags=re.MULTILINE)


@REGISTRY.struct_rule
def _with_ranges(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Return tyro's specification of a dataclass with ranges added to its numeric fields."""
    global _asks_tyro
    if _asks_tyro or not dataclasses.is_dataclass(info.type):
        return None
    _asks_tyro = True
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _asks_tyro = False
    assert isinstance(spec, StructConstructorSpec)
    ranges = ranges_of(info.type)
    fields = [
        dataclasses.replace(field, type=Annotated[field.type, _ranged(ranges[field.name])])  # type: ignore[arg-type]
        if field.name in ranges
        else field
        for field in spec.fields
    ]
    return dataclasses.replace(spec, fields=tuple(fields))


def _ranged(bounds: Range) -> PrimitiveConstructorSpec[Any]:
    metavar = f"{'INT' if bounds.number is int else 'FLOAT'} {bounds.bounds}"
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"None or {metavar}" if bounds.may_be_none else metavar,
        instance_from_str=lambda words: bounds.parse(words[0]),
        is_instance=lambda value: value in bounds,
        str_from_instance=lambda value: [str(value)],
    )


@REGISTRY.primitive_rule
def _path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    return (
        PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=lambda words: sound_path(words[0]),
            is_instance=lambda value: isinstance(value, Path),
            str_from_instance=lambda value: [str(value)],
        )
        if info.type is Path
        else None
    )


def sound_path(text: str) -> Path:
    """Return the path. Raises ValueError if it is empty or holds a NUL."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r} must be a path{'; write . for this folder' if not text else ''}")
    return Path(os.fspath(text))
