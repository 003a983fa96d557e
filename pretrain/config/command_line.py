"""Command lines of the form RECIPE [overrides] or --config FILE [overrides], with every mistake reported once, in one
sentence."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from data_pipeline.settings.command_line import EXIT_USER_ERROR, print_result
from data_pipeline.settings.parsing import (
    HELP,
    HelpRequest,
    UsageError,
    help_text,
    option_names,
    parse_first_options,
    parse_options,
    sound_path,
)
from data_pipeline.settings.suggestions import did_you_mean
from pretrain.config.config_file import read_config_file
from pretrain.config.run_config import ConfigT
from pretrain.survival.stop import JobStatus

CONFIG_OPTION = "--config"
"""Option before a file that stands for a recipe's name."""
Options = TypeVar("Options")


def parse_recipe(
    recipes: dict[str, Callable[[], ConfigT]], module: str, arguments: list[str] | None = None, own_options: str = ""
) -> ConfigT:
    """Return the recipe that the first argument names, or the config in a file (--config FILE), with the overrides
    after it (--optimizer.peak-lr 1e-4) applied.

    arguments: None for those of the process; own_options: help on the options that the module has parsed already. Ends
    the process, on every rank, after printing help or a sentence about the mistake.
    """
    if arguments is None:
        arguments = _given()
    form = f"{module}{' [options]' * bool(own_options)} RECIPE [overrides]"
    if not arguments or arguments[0] in HELP:
        from_file = (
            f"{CONFIG_OPTION} FILE instead of RECIPE takes the config of a run (RUN/config.json), or TOML or YAML"
        )
        _print_once(
            f"usage: {form}; RECIPE --help explains every field\n{from_file}\n\n{_list(recipes)}\n{own_options}"
        )
        sys.exit(0 if arguments else EXIT_USER_ERROR)
    try:
        name, default, overrides = _chosen(recipes, arguments, form, own_options)
        return parse_options(type(default), overrides, f"{module} {name}", default)
    except HelpRequest as help:
        _print_once(str(help))
        sys.exit(0)
    except ValueError as error:
        _fail(str(error))


def _chosen(
    recipes: dict[str, Callable[[], ConfigT]], arguments: list[str], form: str, own_options: str
) -> tuple[str, ConfigT, list[str]]:
    """Return what the arguments begin with, as typed, the config that it names, and the other arguments.

    Raises ValueError if they begin with neither a recipe nor --config FILE, or if the file holds no such config.
    """
    name, others = arguments[0], arguments[1:]
    option, _, value = name.partition("=")
    if option == CONFIG_OPTION:
        if not value and not others:
            raise ValueError(f"{CONFIG_OPTION} needs a file, such as the config.json of a run")
        path, overrides = (value, others) if value else (others[0], others[1:])
        kinds = dict.fromkeys(type(recipe()) for recipe in recipes.values())
        return f"{CONFIG_OPTION} {path}", read_config_file(sound_path(path), *kinds), overrides
    if name.startswith("-"):
        meant = did_you_mean(name, [*option_names(own_options), CONFIG_OPTION])
        raise ValueError(f"there is no option {name} before the recipe{meant}; the form is {form}")
    if name not in recipes:
        is_file = Path(name).suffix and Path(name).is_file()
        meant = f"; did you mean {CONFIG_OPTION} {name}?" if is_file else did_you_mean(name, recipes)
        raise ValueError(f"there is no recipe {name!r}{meant}; choose one of: {', '.join(recipes)}")
    return name, recipes[name](), others


def run_recipe_command(
    recipes: dict[str, Callable[[], ConfigT]],
    options_type: type[Options],
    module: str,
    action: Callable[[ConfigT, Options], str],
    default_recipe: str | None = None,
) -> None:
    """Parse a recipe and the options of the module and print what the action returns; end the process with one sentence
    if it fails."""
    config, options = parse_recipe_and_options(recipes, options_type, module, default_recipe)
    print_result(lambda: action(config, options))


def run_command_on_ranks(options_type: type[Options], module: str, action: Callable[[Options], str]) -> None:
    """Parse the command line and print what the action returns, as `run_command` does, on any number of ranks.

    The main rank alone prints: what the action returns, and mistakes, which all ranks raise (`on_every_rank`).
    """

    def run() -> str:
        return action(parse_options(options_type, _given(), f"python -m {module}"))

    if os.environ.get("RANK", "0") == "0":
        print_result(run)
        return
    try:
        run()
    except HelpRequest:
        return
    except ValueError as error:
        from pretrain.survival.agreement import RunError  # imports torch

        if not isinstance(error, UsageError | RunError):  # of this rank alone
            raise
        sys.exit(EXIT_USER_ERROR)


def parse_recipe_and_options(
    recipes: dict[str, Callable[[], ConfigT]], kind: type[Options], module: str, default_recipe: str | None = None
) -> tuple[ConfigT, Options]:
    """Return the recipe and the module's own options, which may stand anywhere in the command line.

    default_recipe: recipe if none is named. Ends the process as `parse_recipe` does.
    """
    try:
        options, arguments = parse_first_options(kind, [a for a in _given() if a not in HELP], module)
    except ValueError as error:
        _fail(str(error))
    is_named = arguments and (arguments[0].partition("=")[0] == CONFIG_OPTION or not arguments[0].startswith("-"))
    if default_recipe is not None and not is_named:
        arguments = [default_recipe, *arguments]
    if any(argument in HELP for argument in _given()):
        arguments = [*(arguments if default_recipe is None else []), "--help"]
    return parse_recipe(recipes, module, arguments, help_text(kind, module)), options


def parse_options_and_recipe_if_any(
    recipes: dict[str, Callable[[], ConfigT]], kind: type[Options], module: str
) -> tuple[str, ConfigT | None, Options]:
    """Return the name of the recipe, the recipe, and the module's own options; "" and None if no recipe is named.

    Ends the process as `parse_recipe` does.
    """
    given = _given()
    if not any(argument in HELP for argument in given):
        try:
            options, arguments = parse_first_options(kind, given, module)
        except ValueError as error:
            _fail(str(error))
        if not arguments:
            return "", None, options
        return arguments[0], parse_recipe(recipes, module, arguments, help_text(kind, module)), options
    config, options = parse_recipe_and_options(recipes, kind, module)
    return "", config, options


def _given() -> list[str]:
    """Return the arguments of this process without the DeepSpeed launcher's own."""
    return [argument for argument in sys.argv[1:] if not re.match(r"--local[_-]rank=", argument)]


def _list(recipes: dict[str, Callable[[], ConfigT]]) -> str:
    """Return a line per recipe, with the first line of its docstring."""
    width = max(map(len, recipes))
    return "\n".join(f"{name:{width}} {(recipe.__doc__ or '').splitlines()[0]}" for name, recipe in recipes.items())


def _print_once(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def _fail(message: str) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {message}", file=sys.stderr, flush=True)
        JobStatus().report("mistake")
    sys.exit(EXIT_USER_ERROR)
