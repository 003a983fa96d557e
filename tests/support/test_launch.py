"""Ranks see the environment that they were asked for. Any machine, seconds."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.launch import run_ranks

PROGRAM = """import json, os, sys
print(json.dumps({"environment": dict(os.environ), "torch": "torch" in sys.modules}))
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module that prints what it sees; it is found by this process's PYTHONPATH alone."""
    (tmp_path / "seen_by_a_rank.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "seen_by_a_rank"


def seen(num_ranks: int, program: str, on_gpu: bool) -> list[dict[str, Any]]:
    ended = run_ranks(num_ranks, program, [], fresh=True, on_gpu=on_gpu)
    assert ended.exit_codes == [0] * num_ranks, ended.stderr
    return [json.loads(text) for text in ended.stdout]


def test_packages_on_the_path_of_this_process_are_found_by_ranks(program: str) -> None:
    (rank,) = seen(1, program, on_gpu=False)
    assert rank["environment"]["DS_ACCELERATOR"] == "cpu"


def test_ranks_on_gpus_see_them(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # as in tests on a machine without a GPU
    for number, rank in enumerate(seen(2, program, on_gpu=True)):
        assert not rank["torch"], "forked from a process that has imported torch without a GPU"
        expected = {
            "CUDA_VISIBLE_DEVICES": "0,1", "DS_ACCELERATOR": "cuda", "TRITON_INTERPRET": "0", "LOCAL_RANK": str(number)
        }  # fmt: skip
        assert rank["environment"] | expected == rank["environment"]
