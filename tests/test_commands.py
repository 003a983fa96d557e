"""Every command in the documentation is accepted by the program it starts."""

import re
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.check_shards import CheckOptions
from data_pipeline.index_shards import IndexOptions
from data_pipeline.settings.parsing import (
    HELP,
    HelpRequest,
    help_text,
    parse_first_options,
    parse_options,
)
from data_pipeline.train_text_tokenizer import TextTokenizerOptions
from data_pipeline.write_shards import ShardOptions
from pretrain.config.command_line import CONFIG_OPTION, parse_recipe
from pretrain.config.dry_run import DryRunOptions
from pretrain.config.run_config import EncoderRunConfig, config_to_json
from pretrain.conversion.options import ConvertOptions
from pretrain.diagnosis.options import DoctorOptions
from pretrain.evaluation.options import EvaluateOptions, MaskedPatchesOptions, MaskedWordsOptions
from pretrain.inference.options import CaptionOptions, EncodeOptions
from pretrain.planning.options import PlanOptions, ScalingOptions
from pretrain.recipes import CONTRAST_RECIPES, FINETUNE_RECIPES, RECIPES, VISUAL_TOKENIZER_RECIPES
from pretrain.reporting.options import ReportOptions
from tests.support.documents import DOCUMENTS, commands, inline_code
from tests.support.launch import ROOT

OPTIONS = {
    "data_pipeline.write_shards": ShardOptions,
    "data_pipeline.index_shards": IndexOptions,
    "data_pipeline.check_shards": CheckOptions,
    "data_pipeline.train_text_tokenizer": TextTokenizerOptions,
    "pretrain.caption": CaptionOptions,
    "pretrain.convert": ConvertOptions,
    "pretrain.encode": EncodeOptions,
    "pretrain.evaluate": EvaluateOptions,
    "pretrain.masked_patches": MaskedPatchesOptions,
    "pretrain.masked_words": MaskedWordsOptions,
    "pretrain.report": ReportOptions,
}
OF_RECIPES: dict[str, dict[str, Any]] = {
    "pretrain.train": RECIPES,
    "pretrain.contrast": CONTRAST_RECIPES,
    "pretrain.finetune": FINETUNE_RECIPES,
    "pretrain.train_visual_tokenizer": VISUAL_TOKENIZER_RECIPES,
}
PLANNING = {"pretrain.plan": PlanOptions, "pretrain.scaling": ScalingOptions, "pretrain.doctor": DoctorOptions}
JOB_SCRIPTS = {
    "slurm/pretrain.sbatch": "pretrain.train",
    "slurm/write_shards.sbatch": "data_pipeline.write_shards",
    "slurm/convert.sbatch": "pretrain.convert",
}
SBATCH_OPTIONS = {"--nodes", "--gres", "--ntasks-per-node", "--cpus-per-task", "--array", "--signal"}
SHELL = {".", "source", "cat", "scancel", "squeue", "tail", "touch"}
PLACEHOLDERS = {"RECIPE": "laptop", "KIND": "pair"}
LEFT_OUT = {"[overrides]", "[options]"}
FOREIGN_OPTIONS = {
    "pip": {"--no-deps"},
    "deepspeed": {"--log_level", "--master_port", "--num_accelerators"},
    "tensorboard": {"--logdir"},
    "Microsoft's finetuning code": {"--vocab_size", "--num_max_bpe_tokens"},
    "Slurm": {"--gpus-per-task", "--signal", *SBATCH_OPTIONS},
    "benchmarks": {"--append", "--source"},
    "git and apptainer": {"--nv"},
}


def commands_in_job_scripts() -> list[str]:
    """Return the usage lines in the comments of slurm/*.sbatch."""
    sources = [(ROOT / script).read_text() for script in JOB_SCRIPTS]
    return [
        re.sub(r"\[.*\]", "", line).strip()
        for source in sources
        for line in re.findall(r"^# +(sbatch .*)$", source, re.MULTILINE)
    ]


def commands_in_recipes() -> list[str]:
    """Return the command in the docstring of every recipe."""
    recipes = [recipe for recipes in OF_RECIPES.values() for recipe in recipes.values()]
    return [line for recipe in recipes for line in re.findall(r"Command: (.*)", recipe.__doc__ or "")]


COMMANDS = sorted({command for path in DOCUMENTS for command in commands(path.read_text())})
ELSEWHERE = sorted({*commands_in_job_scripts(), *commands_in_recipes()})


def check(words: list[str]) -> None:
    """Raise an error, or end the process with a code other than 0, if a command is not accepted."""
    module = ""
    if words[0].startswith("IMGLISH_MODULE="):  # of slurm/pretrain.sbatch, in place of its own
        module, words = words[0].partition("=")[2], words[1:]
    if words[:2] == ["python", "-m"]:
        check_module(words[2], words[3:])
    elif words[0] == "deepspeed":
        from deepspeed.launcher.runner import parse_args

        parsed = parse_args(words[1:])
        assert parsed.module, words
        check_module(parsed.user_script, parsed.user_args)
    elif words[0] == "sbatch":
        script = next(number for number, word in enumerate(words) if word.endswith(".sbatch"))
        assert {word.split("=")[0] for word in words[1:script] if word.startswith("--")} <= SBATCH_OPTIONS
        check_module(module or JOB_SCRIPTS[words[script]], words[script + 1 :])
    elif words[0] == "make":
        assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for target in words[1:])
    else:
        assert words[0] in SHELL, words


def check_module(module: str, arguments: list[str]) -> None:
    arguments = [word.strip("[]") for word in arguments if word not in LEFT_OUT]
    arguments = [PLACEHOLDERS.get(word, word) for word in arguments]
    path = ROOT / (module.replace(".", "/") + ".py")
    assert path.is_file() or (path.with_suffix("") / "__main__.py").is_file(), module
    if module.startswith("tests."):
        source = path.read_text() if path.is_file() else (path.with_suffix("") / "__main__.py").read_text()
        options = [word[2:].replace("-", "_") for word in arguments if word.startswith("--")]
        assert all(re.search(rf"\b{option}\b", source) for option in options), options
    elif module == "pretrain.demo":
        assert not arguments
    elif not arguments:
        pass  # only named in running text
    elif module in OF_RECIPES:
        _, arguments = parse_first_options(DryRunOptions, arguments, module)
        parse_of_recipe(OF_RECIPES[module], module, arguments)
    elif module in PLANNING:
        _, others = parse_first_options(PLANNING[module], arguments, module)
        recipes: dict[str, Callable[[], EncoderRunConfig]] = {**RECIPES}
        if module != "pretrain.scaling":
            recipes |= {**CONTRAST_RECIPES, **FINETUNE_RECIPES}
        parse_recipe(recipes, module, others or ["beit3_giant"])
    else:
        parse_options(OPTIONS[module], arguments, module)


def parse_of_recipe(recipes: dict[str, Any], module: str, arguments: list[str]) -> None:
    """Parse a command line of a training; for --config FILE with a file as a run writes it."""
    if arguments[0] != CONFIG_OPTION:
        parse_recipe(recipes, module, arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(config_to_json(next(iter(recipes.values()))()))
        parse_recipe(recipes, module, [CONFIG_OPTION, str(path), *arguments[2:]])


def test_the_documentation_has_commands_of_every_kind() -> None:
    found = " ".join(COMMANDS)
    assert len(COMMANDS) >= 50
    modules = {*OPTIONS, *OF_RECIPES, *PLANNING}
    assert {module for module in modules if not re.search(rf"{re.escape(module)} \S", found)} == set()
    assert all(f"make {target}" in found for target in ("install", "demo", "test", "test-slow", "test-slurm", "fuzz"))
    assert all(script in found for script in JOB_SCRIPTS)


def test_job_scripts_and_recipes_have_a_command_each() -> None:
    assert len(commands_in_job_scripts()) == len(JOB_SCRIPTS)
    assert len(commands_in_recipes()) == sum(map(len, OF_RECIPES.values()))


@pytest.mark.parametrize("command", [*COMMANDS, *ELSEWHERE])
def test_a_documented_command_is_accepted(command: str) -> None:
    words = shlex.split(command)
    code, is_help = None, False
    try:
        check(words)
    except HelpRequest:
        is_help = True
    except SystemExit as ending:
        code, is_help = ending.code, True
    assert not code and is_help == (words[-1] in HELP)


@pytest.mark.parametrize(
    "command",
    [
        "python -m pretrain.convert runs/laptop out --to onnx",
        "python -m pretrain.train laptop --optimizer.peak-rl 1e-3",
        "python -m pretrain.train bert",
        "python -m pretrain.plan --rank 64 laptop",
        "python -m pretrain.demo --fast",
        "python -m pretrain.no_such_command",
        "python -m tests.benchmarks.bench_step --no-such-option",
        "deepspeed --no_such_option 2 --module pretrain.train laptop",
        "sbatch --nodez 4 slurm/pretrain.sbatch laptop",
        "make no-such-target",
        "rm -rf runs",
    ],
)
def test_a_command_that_is_wrong_would_be_found(command: str) -> None:
    with pytest.raises((AssertionError, KeyError, SystemExit, ValueError)):
        check(shlex.split(command))


def options_in_help() -> set[str]:
    """Return all options of all commands, both forms of a flag, and the groups that options belong to."""
    texts = [help_text(kind, "") for kind in (*OPTIONS.values(), *PLANNING.values(), DryRunOptions)]
    configs = [next(iter(recipes.values()))() for recipes in OF_RECIPES.values()]
    texts += [help_text(type(config), "", config) for config in configs]
    lines = [line for text in texts for line in re.findall(r"^\W*(?:-h, )?(--.*)$", text, re.MULTILINE)]
    options = {option for line in lines for option in re.findall(r"--[\w.-]*\w", line)}
    return options | {CONFIG_OPTION} | {option.rpartition(".")[0] for option in options if "." in option}


def test_every_option_named_in_the_documentation_exists() -> None:
    known = {option.replace("_", "-") for option in options_in_help().union(*FOREIGN_OPTIONS.values())}
    found = {
        (str(path.relative_to(ROOT)), option)
        for path in DOCUMENTS
        for code in inline_code(path.read_text())
        if not code.startswith(("python -m tests.", "gpu.sh ", "pip "))
        for option in re.findall(r"(?<!\S)\[?(--[a-z][\w.-]*)", code)
    }
    assert len(found) > 60
    assert sorted((path, option) for path, option in found if option.replace("_", "-") not in known) == []
