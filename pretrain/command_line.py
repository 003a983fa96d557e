"""RECIPE [overrides] from the command line, with every mistake told once in one sentence."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

import tyro

from data_pipeline.command_line import EXIT_USER_ERROR
from pretrain.stop import JobStatus

C = TypeVar("C")


def parse_recipe(
    recipes: dict[str, Callable[[], C]], module: str, arguments: list[str] | None = None, options: str = ""
) -> C:
    """The recipe that the first argument names, with the overrides that follow it (--optimizer.peak-lr 1e-4).

    arguments: None: the process's; options: what the module has taken of them already, for its usage. Ends the process,
    on every rank, with help or with a sentence that says what is wrong.
    """
    if arguments is None:
        arguments = [a for a in sys.argv[1:] if not re.match(r"--local[_-]rank=", a)]  # the DeepSpeed launcher's
    if not arguments or arguments[0] in ("-h", "--help"):
        usage = f"usage: {module} {options}RECIPE [overrides]; RECIPE --help explains every field"
        _print_once(f"{usage}\n\n{_list(recipes)}")
        sys.exit(0 if arguments else EXIT_USER_ERROR)
    name, overrides = arguments[0], arguments[1:]
    if name not in recipes:
        _fail(f"there is no recipe {name!r}; choose one of: {', '.join(recipes)}")
    try:
        default = recipes[name]()
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            return tyro.cli(type(default), default=default, args=overrides, prog=f"{module} {name}")
    except ValueError as error:
        _fail(str(error))
    except SystemExit as ending:
        if ending.code in (0, None):
            _print_once(output.getvalue())
            sys.exit(0)
        _fail(f"{_one_sentence(output.getvalue())}; {module} {name} --help lists every field")


def _one_sentence(panel: str) -> str:
    """tyro prints title, rule, message, rule, help: the message."""
    sections = re.split(r"^\W*[-\u2500]{5,}\W*$", panel, flags=re.MULTILINE)
    return " ".join(sections[1 if len(sections) > 1 else 0].split())


def _list(recipes: dict[str, Callable[[], C]]) -> str:
    """Each recipe with the first line of its docstring."""
    width = max(map(len, recipes))
    return "\n".join(f"{name:{width}} {(recipe.__doc__ or '').splitlines()[0]}" for name, recipe in recipes.items())


def _print_once(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def _fail(message: str) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {message}", file=sys.stderr, flush=True)
        JobStatus().told("mistake")
    sys.exit(EXIT_USER_ERROR)
