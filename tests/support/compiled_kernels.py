"""Kernels compiled for GPUs that this machine lacks: their registers and memory, and the machine code of their loops.

Needs TRITON_INTERPRET unset before a kernel is defined: see tests/ahead_of_time.py.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
MAX_SHARED = 99 * 1024
"""Shared memory in bytes that a program may use on every GPU since sm_80."""
FLAGS = {"HAS_SCALE": "scale", "EMIT_Y": "y"}
"""Compile-time flags that make variants of a kernel, and their names in tables."""
WIDTHS = ("D", "F", "WIDTH")
"""Compile-time arguments that depend on the size of the network."""
SCHEDULERS = 4
"""Warp schedulers of a streaming multiprocessor, each of which issues an instruction per cycle."""
SPECIAL_CYCLES = 8
"""Cycles for which an instruction of the special function unit (exp2, rsqrt) occupies a scheduler's four lanes."""


@dataclass(frozen=True)
class CompiledKernel:
    """What a kernel needs on a GPU."""

    kernel: str
    """Name, then the flags of its variant."""
    arch: int
    depends_on_width: bool
    warps: int
    registers: int
    """Registers per thread, at most 255."""
    spilled_bytes: int
    """Bytes of a thread's stack, to which registers are spilled."""
    shared: int
    """Shared memory in bytes."""
    binary: bytes


class CompilingDriver:
    """A Triton driver for a GPU architecture without the GPU: kernels are compiled, launches do nothing."""

    def __init__(self, arch: int):
        self.arch = arch
        self.compiled: list[CompiledKernel] = []
        self.utils = SimpleNamespace(
            load_binary=self._load_binary,
            unload_module=lambda module: None,
            get_device_properties=lambda device: {"max_shared_mem": MAX_SHARED},
        )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # Triton caches compiled kernels per device

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, src: Any, metadata: Any) -> Any:
        # Triton asks for a launcher right before it loads the binary, which comes without these
        self._constants = {src.fn.arg_names[place[0]]: value for place, value in src.constants.items()}
        self._warps = metadata.num_warps
        return lambda *args: None

    def _load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[object, object, int, int, int]:
        usage = resource_usage(binary)
        flags = [word for flag, word in FLAGS.items() if self._constants.get(flag)]
        self.compiled.append(
            CompiledKernel(
                f"{name} ({', '.join(flags)})" if flags else name, self.arch,
                any(width in self._constants for width in WIDTHS), self._warps,
                usage["REG"], usage["STACK"] + usage["LOCAL"], shared, binary,
            )
        )  # fmt: skip
        return object(), object(), usage["REG"], 0, 1024


def resource_usage(binary: bytes) -> dict[str, int]:
    """Return REG, registers of a thread, and STACK and LOCAL, bytes of its memory."""
    text = _output_of("cuobjdump", "-res-usage", binary)
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}


def row_loop(binary: bytes) -> list[str]:
    """Return the instructions of a kernel's longest loop, the one over its rows."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    longest: list[str] = []
    for line in _output_of("nvdisasm", "-c", binary).splitlines():
        if label := re.match(r"\s*\.(L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        if instruction := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?);", line):
            instructions.append(instruction[1])
            target = re.search(r"BRA(?:\.\w+)* `\(\.(L_x_\d+)\)", instruction[1])
            if target and target[1] in labels:  # backwards
                longest = max(longest, instructions[labels[target[1]] :], key=len)
    return longest


def access_widths(instructions: list[str]) -> Counter[int]:
    """Return the number of loads and stores of global memory by the bytes that a thread moves."""
    accesses = [re.search(r"\b(?:LDG|STG)\.([\w.]+)", instruction) for instruction in instructions]
    return Counter(_access_bytes(access[1].split(".")) for access in accesses if access)


def _access_bytes(modifiers: list[str]) -> int:
    sizes = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
    return next((size for name, size in sizes.items() if name in modifiers), 4)


def row_cycles(instructions: list[str], warps: int) -> float:
    """Return the cycles that a streaming multiprocessor needs to issue a row's instructions, if nothing else waits."""
    num_special = sum("MUFU" in instruction for instruction in instructions)
    return max(len(instructions), SPECIAL_CYCLES * num_special) * warps / SCHEDULERS


def _output_of(tool: str, option: str, binary: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [str(TOOLS / tool), option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
