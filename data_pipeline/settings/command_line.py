"""Shared behavior of the commands: parsing, error messages, exit codes, progress."""

import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from data_pipeline.samples.sample import printable_lines
from data_pipeline.settings.parsing import HelpRequest, parse_options

if TYPE_CHECKING:
    from tqdm import tqdm

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as in shells."""

Options = TypeVar("Options")


def run_command(options_type: type[Options], module: str, action: Callable[[Options], str]) -> None:
    """Parse the command line, run the action and print its result. If it fails, exit with one sentence on stderr."""
    print_result(lambda: action(parse_options(options_type, sys.argv[1:], f"python -m {module}")))


def print_result(command: Callable[[], str]) -> None:
    """Print the result of a command, or its help. If it fails, exit with one sentence on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # paths need not be UTF-8
    try:
        print(printable_lines(command()))
    except HelpRequest as help:
        print(help)
    except (ValueError, OSError) as error:
        print(f"error: {printable_lines(str(error))}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def progress_bar(unit: str, total: int | None = None) -> "tqdm[object]":
    """Return a bar for work that may take hours: shown after a few seconds, and in a log file once a minute."""
    from tqdm import tqdm  # a fifth of the time that --help takes

    return tqdm(unit=f" {unit}", total=total, delay=5, mininterval=2 if sys.stderr.isatty() else 60)
