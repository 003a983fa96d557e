"""Was an exception a lack of memory? Every library reports it in its own way.

| who allocates | exception | message |
| --- | --- | --- |
| torch's allocator | torch.OutOfMemoryError | CUDA out of memory. Tried to allocate ... |
| torch, pinned memory and streams | RuntimeError, torch.AcceleratorError | CUDA error: out of memory |
| torch on a CPU | RuntimeError | DefaultCPUAllocator: can't allocate memory / not enough memory |
| Triton, loading a kernel | RuntimeError | Triton Error [CUDA]: out of memory |
| cuBLAS, cuDNN, cuSOLVER, their handles and workspaces | RuntimeError | CUBLAS_STATUS_ALLOC_FAILED, ... |
| NCCL, its buffers | torch.distributed.DistBackendError | Cuda failure 2 'out of memory', Failed to CUDA calloc ... |
| Python, numpy | MemoryError | |
| the operating system | OSError, or a RuntimeError of torch or NCCL around it | Cannot allocate memory |

Triton's OutOfResources is none of them: a program asks for more shared memory or registers than the GPU has, and less
data would not help.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_MESSAGE = re.compile(
    r"out[ _]of[ _]memory|not enough memory|can(not|'t) allocate memory"
    r"|CU\w+_ALLOC(ATION)?_FAILED|Failed to CUDA (host )?[mc]?alloc",
    re.IGNORECASE,
)
REMEDY = "python -m pretrain.plan lists settings that fit"
"""End of a sentence on a run that is out of memory."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an exception, or one that it was raised from, reports that memory is used up."""
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError) and _MESSAGE.search(str(error)):
            return True
        error = error.__cause__
    return False


def lack_in_words(error: BaseException) -> str:
    """Return a lack of memory for a message, with the first line of the exception."""
    return f"memory is used up ({(str(error) or type(error).__name__).splitlines()[0]})"


@contextmanager
def naming_lack_of_memory(remedy: str) -> Iterator[None]:
    """Raise ValueError with the remedy, a clause such as "give a smaller --batch-size", if memory is used up within."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"{lack_in_words(error)}; {remedy}") from error
