"""Large CPU tensors are allocated in huge pages. Linux, seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launch import ROOT

FAULTS_OF_A_LARGE_TENSOR = """
import resource, {first}, torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.empty(2**26).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.slow  # two interpreters that import torch; what it guards is speed alone
@pytest.mark.skipif(
    not SETTING.is_file() or "[madvise]" not in SETTING.read_text(),
    reason="the kernel gives huge pages to all processes or to none",
)
def test_a_large_tensor_takes_few_page_faults() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}

    def num_faults(first: str) -> int:
        command = [sys.executable, "-c", FAULTS_OF_A_LARGE_TENSOR.format(first=first)]
        return int(
            subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
        )

    assert num_faults("pretrain") < num_faults("json") / 10
