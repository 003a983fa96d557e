"""Do two runs of the same config give the same bits? On a GPU only if every operation sums in a fixed order.

On a CPU they do. On a GPU, unless `deterministic` is set, these do not:

| operation | why | if deterministic |
| --- | --- | --- |
| attention backward, FlashAttention | dq is summed by atomics | another order of its loops, by torch's flag |
| attention backward, cuDNN | the same | not used: torch then chooses FlashAttention or its own |
| backward of index_select, gather, indexing | sums by atomics | sorted first, by torch's flag |
| cuBLAS with several streams | its workspace decides how a sum is split | a workspace of a fixed size |
| cuDNN's convolutions, benchmarked | the fastest algorithm of the moment | deterministic ones, not benchmarked |
| torch.compile | autotuning chooses how a sum is split | not autotuned, by torch's flag |

Our Triton kernels sum in a fixed order always. NCCL sums in the same order if ranks, topology and version are the same.
An operation that torch knows to be without a deterministic algorithm raises an error; none is in the path of a step
(tests/pretrain/engine/test_determinism.py). Source: torch.use_deterministic_algorithms, of torch 2.11 to 2.13.
"""

import os

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACES = (":4096:8", ":16:8")
"""Values of WORKSPACE with which cuBLAS is deterministic, the faster one, which takes 32 MiB more, first."""


def use_deterministic_algorithms() -> None:
    """Make all operations of this process deterministic. Must precede the first matrix product on a GPU.

    Raises ValueError if the environment prevents it.
    """
    workspace = os.environ.setdefault(WORKSPACE, WORKSPACES[0])  # cuBLAS reads it when its first handle is made
    if workspace not in WORKSPACES:
        raise ValueError(
            f"{WORKSPACE} is {workspace}, with which cuBLAS is not deterministic; unset it or set it to "
            f"{' or '.join(WORKSPACES)}"
        )
    torch.use_deterministic_algorithms(True)  # not warn_only, with which attention's backward would stay as it is
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cuda.enable_cudnn_sdp(False)
    # filling torch.empty with NaN finds reads of memory that nobody wrote; it costs bandwidth, and padding of
    # DeepSpeed's buffers, which its norms read, would become NaN
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
