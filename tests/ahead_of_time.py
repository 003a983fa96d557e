"""Compile every kernel for GPUs that this machine lacks: python -m tests.ahead_of_time [80 90]

Calls the public functions, forward and backward, at the giant's sizes in bfloat16, with a Triton driver that compiles
and launches nothing. Prints one line of JSON per compiled kernel with the registers and memory that it needs.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

os.environ.pop("TRITON_INTERPRET", None)  # read when a kernel is defined
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # unset, Triton 3.9 warns

import triton
from triton.backends.compiler import GPUTarget

from tests.support.kernel_calls import giant_calls

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
MAX_SHARED = 99 * 1024
"""Shared memory in bytes that a program may use on every GPU since sm_80."""


class CompilingDriver:
    """A Triton driver for a GPU architecture without the GPU: kernels are compiled, launches do nothing."""

    def __init__(self, arch: int):
        self.arch = arch
        self.compiled: list[dict[str, Any]] = []
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
        return lambda *args: None

    def _load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[object, object, int, int, int]:
        usage = _resource_usage(binary)
        self.compiled.append({"arch": self.arch, "kernel": name, "shared": shared} | usage)
        return object(), object(), usage["registers"], usage["spilled_bytes"], 1024


def _resource_usage(binary: bytes) -> dict[str, int]:
    """Return the registers of a thread, and the bytes of its stack, to which registers are spilled."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        dump = [str(CUOBJDUMP), "-res-usage", file.name]
        text = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text))
    return {"registers": int(found["REG"]), "spilled_bytes": int(found["STACK"]) + int(found["LOCAL"])}


def main() -> None:
    for arch in map(int, sys.argv[1:] or (80, 90)):
        driver = CompilingDriver(arch)
        triton.runtime.driver.set_active(driver)
        for call in giant_calls():
            call()
        for line in driver.compiled:
            print(json.dumps(line))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
