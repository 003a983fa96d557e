"""The command pretrain.plan, its documented table, and the stages that the recipes take."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.engine.memory_config import read_memory_config
from pretrain.plan import main
from pretrain.planning.assumptions import GPUS, Assumptions
from pretrain.planning.commands import start_lines
from pretrain.planning.duration import duration_lines
from pretrain.planning.plan import predicted_speed
from pretrain.planning.recommendation import TIE, recommend
from pretrain.planning.sections import section
from pretrain.planning.stages import way_of
from pretrain.planning.step_times import AssumedMachine, predicted_settings
from pretrain.planning.storage import checkpoint_lines
from pretrain.planning.time_tables import rank_row
from pretrain.recipes import CONTRAST_RECIPES, RECIPES
from tests.support.documents import blocks
from tests.support.launch import ON_CPU, ROOT

COMMAND = "python -m pretrain.plan --ranks 128 --price 2.5 beit3_giant"
CONTRAST_COMMAND = "python -m pretrain.plan contrast_base"
H100 = AssumedMachine(GPUS["h100"], Assumptions())
GPUS_PER_NODE = 8


def test_a_number_of_ranks_that_does_not_divide_is_a_mistake_of_the_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain.plan", "--ranks", "3", "demo"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "must be a multiple of 3 ranks" in capsys.readouterr().err


def test_a_measured_speed_is_read_from_the_log_of_a_run(
    two_ranks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain.plan", "demo", "--run", str(two_ranks), "--num-steps", "900"])
    main()
    printed = capsys.readouterr().out
    assert re.search(rf"a step +[\d.,]+ s  measured: .* a rank, the median of 8 steps of {two_ranks}", printed)
    assert "deepspeed --num_accelerators 2 --module pretrain.train demo --num-steps 900" in printed
    monkeypatch.setattr(sys, "argv", ["pretrain.plan", "demo", "--run", str(two_ranks / "checkpoints")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "has no step with a speed" in capsys.readouterr().err


def documented(command: str = COMMAND) -> list[str]:
    """Return the lines of the table that the documentation prints of a command."""
    text = (ROOT / "docs" / "speed_and_memory.md").read_text()
    commands = (COMMAND, CONTRAST_COMMAND)
    assert all(f"`{each}`" in " ".join(text.split()) for each in commands)
    tables = [block for block in blocks(text, "text") if "waits for the host" in block]
    return dict(zip(commands, tables, strict=True))[command].rstrip("\n").splitlines()


def documented_lines() -> list[str]:
    """Return the lines on the whole run that the documentation prints."""
    text = (ROOT / "docs" / "speed_and_memory.md").read_text()
    page = text.partition("## A whole run, on paper\n")[2].partition("\n## ")[0]
    return [line for block in blocks(page, "text") for line in block.splitlines()]


def test_the_documented_lines_on_the_whole_run_equal_the_computed_ones() -> None:
    config = RECIPES["beit3_giant"]()
    memory = read_memory_config(config.deepspeed_config)
    fitting = predicted_settings(config, memory, 128, H100)
    best = recommend(config, memory, [], fitting, 128, H100)
    speed = predicted_speed(best.found, fitting[0].time)
    computed = [
        *section("Whole run", duration_lines(config, 128, speed, H100.gpu.peak_tflops * 1e12, 2.5)).splitlines(),
        *checkpoint_lines(config, memory, 128),
        *list(start_lines(["beit3_giant", *best.overrides], 128, True))[:1],
    ]
    assert documented_lines() == computed


def test_the_documented_rows_of_128_ranks_equal_the_computed_ones() -> None:
    config = RECIPES["beit3_giant"]()
    memory = read_memory_config(config.deepspeed_config)
    found = predicted_settings(config, memory, 128, H100)
    assert documented()[-len(found) :] == [rank_row(128, setting) for setting in found]
    assert way_of(memory) == found[0].setting.name  # the recipe takes the fastest


def test_the_documented_rows_of_the_contrastive_stage_equal_the_computed_ones() -> None:
    config = CONTRAST_RECIPES["contrast_base"]()
    found = predicted_settings(config, read_memory_config(config.deepspeed_config), 16, H100)
    assert documented(CONTRAST_COMMAND)[-len(found) :] == [rank_row(16, setting) for setting in found]


@pytest.mark.slow
@pytest.mark.parametrize("command", [COMMAND, CONTRAST_COMMAND])
def test_the_documented_table_equals_the_output_of_the_command(command: str) -> None:
    ended = subprocess.run(
        [sys.executable, *command.split()[1:]],
        cwd=ROOT, env={**os.environ, **ON_CPU}, check=True, text=True, capture_output=True,
    )  # fmt: skip
    printed, table = ended.stdout.splitlines(), documented(command)
    start = printed.index(table[0])
    assert printed[start : start + len(table)] == table
    assert command != COMMAND or set(documented_lines()) <= set(printed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["beit3_base", "beit3_large", "beit3_base_shared", "beit3_large_shared"])
def test_a_recipe_takes_the_fastest_stage_on_the_nodes_of_its_command(name: str) -> None:
    config = RECIPES[name]()
    nodes = re.search(r"--nodes (\d+)", RECIPES[name].__doc__ or "")
    assert nodes is not None
    memory = read_memory_config(config.deepspeed_config)
    found = predicted_settings(config, memory, GPUS_PER_NODE * int(nodes[1]), H100)
    own = next(setting for setting in found if setting.setting.name == way_of(memory))
    assert own.time.seconds <= TIE * found[0].time.seconds
