"""The kernels together: all compile for sm_80 and sm_90 without spilling a register, and on a GPU, in bfloat16, none is
further from float32 than twice plain torch's own bfloat16."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import model.kernels
from tests.benchmarks.kernel_operations import NAMES, Size, head, operations
from tests.support.kernel_calls import FAMILY
from tests.support.kernels import DEVICE, outputs_and_gradients
from tests.triton_versions import VERSIONS, compile_all

pytest.importorskip("triton")
ARCHITECTURES = (80, 90)
SIZES = [Size("small", 768, 3072, 197, 2, vocab_size=5000), Size("giant", 1408, 6144, 257, 1, vocab_size=5000)]
KERNELS = {
    name
    for path in Path(model.kernels.__file__).parent.glob("*.py")
    for name in re.findall(r"^@jit\(do_not_specialize=.*\)\ndef (\w+)\(", path.read_text(), re.MULTILINE)
}


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
def test_every_kernel_compiles_and_spills_no_register(arch: int) -> None:
    command = [sys.executable, "-m", "tests.ahead_of_time", str(arch), "--sizes", "giant", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {line["arch"] for line in found} == {arch} and {line["kernel"].split()[0] for line in found} == KERNELS
    assert [line for line in found if line["spilled_bytes"]] == []


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_kernel_of_the_family_compiles_under_every_triton_and_spills_no_register(version: str) -> None:
    found = compile_all(version)  # installed by pip into build/triton
    assert {row["kernel"].split()[0] for row in found} == KERNELS
    assert {(row["arch"], row["size"]) for row in found} >= {(arch, size) for arch in ARCHITECTURES for size in FAMILY}
    assert [row for row in found if row["spilled_bytes"]] == []


@pytest.mark.slow
def test_activation_kernels_load_and_store_rows_by_16_bytes() -> None:
    found = compile_all(VERSIONS[-1], "--ceilings")
    assert {row["size"] for row in found} == set(FAMILY)
    for row in found:
        # a row's statistics are single floats; a row of F elements takes a whole number of accesses of 16 bytes
        assert set(row["access_bytes"]) <= {"16", "4"}, row
        assert row["access_bytes"]["16"] >= 5 and row["access_bytes"].get("4", 0) <= 2, row


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.float() - exact).abs().max())


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
@pytest.mark.parametrize("name", [*NAMES, "head"])
def test_kernels_are_as_exact_as_plain_torch(size: Size, name: str) -> None:
    (operation,) = (found for found in [*operations(size, DEVICE), head(size, DEVICE)] if found.name == name)
    exact = outputs_and_gradients(operation.plain, [x.detach().float().requires_grad_() for x in operation.inputs])
    plain = outputs_and_gradients(operation.plain, operation.inputs)
    ours = outputs_and_gradients(operation.backend("triton"), operation.inputs)
    for number, (a, b, c) in enumerate(zip(ours, plain, exact, strict=True)):
        assert error(a, c) <= 2 * error(b, c) + 1e-3 * float(c.abs().max()), f"tensor {number}"


def test_every_operation_that_is_measured_is_tested() -> None:
    size = Size("tiny", 32, 64, 5, 1, caption_tokens=3, text_tokens=9, vocab_size=50)
    cpu = torch.device("cpu")
    assert [operation.name for operation in [*operations(size, cpu), head(size, cpu)]] == [*NAMES, "head"]
