"""A lack of memory is recognized whoever reports it. CPU, seconds."""

import pytest
import torch
from torch.distributed import DistBackendError

from pretrain.survival.agreement import RetryableRunError, on_every_rank
from pretrain.survival.out_of_memory import is_out_of_memory, naming_lack_of_memory
from tests.support.mistakes import only_rank

NCCL = (
    "NCCL error in: NCCLUtils.cpp:94, unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.28.9"
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of ..."),
        RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        DistBackendError(f"{NCCL}Cuda failure 2 'out of memory'"),
        DistBackendError(f"{NCCL}Failed to CUDA calloc async 24 bytes"),
        DistBackendError(f"{NCCL}Failed to CUDA host alloc 147456 bytes"),
        MemoryError(),
    ],
    ids=lambda error: str(error)[-40:],
)
def test_every_librarys_report_is_recognized(error: Exception) -> None:
    assert is_out_of_memory(error)
    wrapped = ValueError("the step failed")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)


def test_torch_itself_is_recognized_on_a_cpu() -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**50, dtype=torch.float64)
    assert is_out_of_memory(found.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448."),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        DistBackendError(f"{NCCL}ncclSystemError: System call (e.g. socket, malloc) or external library call failed"),
        ValueError("out of memory is a sentence of the user's"),
        None,
    ],
    ids=lambda error: str(error)[-40:],
)
def test_other_errors_are_not(error: Exception | None) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), r"memory is used up \(MemoryError\); give less"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried ...\nmore"),
            r"\(CUDA out of memory. Tried ...\); give less",
        ),
    ],
)
def test_a_remedy_is_named(error: Exception, said: str) -> None:
    with pytest.raises(ValueError, match=said), naming_lack_of_memory("give less"):
        raise error


def test_other_errors_keep_their_own_words() -> None:
    with pytest.raises(RuntimeError, match="illegal"), naming_lack_of_memory("give less"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_lack_on_one_rank_is_told_in_a_sentence_on_all() -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried ...\nmore")

    with only_rank(), pytest.raises(RetryableRunError, match=r"^memory is used up \(CUDA out of memory. Tried ...\)$"):
        on_every_rank(fail)
