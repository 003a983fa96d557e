"""Packages that a benchmark needs besides the project's own; all missing ones are reported in one line to copy."""

import importlib.util
import sys
from collections.abc import Mapping

_WITH_DEPENDENCIES = ("matplotlib",)
"""Packages installed with their dependencies. Those of the others would replace the build of torch."""


def require_packages(needed: Mapping[str, str], optional: Mapping[str, str] | None = None) -> None:
    """Exit with a message if a needed package is missing; print one if only optional ones are.

    Keys are import names, values the names for pip.
    """
    missing = _missing(needed)
    optional_missing = _missing(optional or {})
    if missing:
        from data_pipeline.settings.command_line import EXIT_USER_ERROR  # here: machine.py lists its packages too

        needs = ", ".join(missing)
        print(f"error: this benchmark needs {needs}; {install_line([*missing, *optional_missing])}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    if optional_missing:
        print(f"without {', '.join(optional_missing)}: fewer peers; {install_line(optional_missing)}")


def install_line(packages: list[str]) -> str:
    """Return a shell command that installs packages."""
    with_dependencies = [package for package in packages if package in _WITH_DEPENDENCIES]
    alone = [package for package in packages if package not in _WITH_DEPENDENCIES]
    commands = [f"pip install {' '.join(with_dependencies)}"] if with_dependencies else []
    commands += [f"pip install --no-deps {' '.join(alone)}"] if alone else []
    return " && ".join(commands)


def _missing(packages: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(name for module, name in packages.items() if importlib.util.find_spec(module) is None))
