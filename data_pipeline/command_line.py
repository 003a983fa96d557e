"""What every command that takes options has in common."""

import sys
from collections.abc import Callable
from typing import TypeVar

import tyro

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

Options = TypeVar("Options")


def run_command(options_type: type[Options], module: str, action: Callable[[Options], str]) -> None:
    """Parse the command line, act, print the sentence that comes back; end with one sentence where it fails."""
    options = tyro.cli(options_type, prog=f"python -m {module}")
    try:
        print(action(options))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
