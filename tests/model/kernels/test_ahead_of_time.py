"""Every kernel at the giant's sizes, compiled for GPUs that are not here, without one register spilled."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import model.kernels

pytest.importorskip("triton")
KERNELS = {
    name
    for path in Path(model.kernels.__file__).parent.glob("*.py")
    for name in re.findall(r"^@jit\(do_not_specialize=.*\)\ndef (\w+)\(", path.read_text(), re.MULTILINE)
}


@pytest.fixture(scope="module")
def compiled() -> list[dict[str, object]]:
    command = [sys.executable, "-m", "tests.ahead_of_time", "80", "90"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.parametrize("arch", [80, 90])
def test_every_kernel_compiles_and_spills_no_register(compiled: list[dict[str, object]], arch: int) -> None:
    found = [line for line in compiled if line["arch"] == arch]
    assert {line["kernel"] for line in found} == KERNELS
    assert [line for line in found if line["spilled_bytes"]] == []
