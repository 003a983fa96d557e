"""Checks of the installed software: Python, packages, torch and the GPUs that it sees, DeepSpeed, Triton, apex."""

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from pretrain.diagnosis.findings import Finding, from_error

TESTED_PYTHONS = ((3, 11), (3, 12))
DRIVER = Path("/proc/driver/nvidia/version")
"""File of the NVIDIA driver, there while its kernel module is loaded."""
BUSY_SHARE = 0.1
"""Share of a GPU's memory in use above which another program is likely to run on it."""


def python() -> Iterator[Finding]:
    """Yield the version of Python and its environment."""
    version, text = sys.version_info[:2], f"{sys.version.split()[0]} in {sys.prefix}"
    if version in TESTED_PYTHONS:
        yield Finding("ok", "Python", text)
    else:
        tested = " and ".join(".".join(map(str, one)) for one in TESTED_PYTHONS)
        remedy = "remove .venv and run make install PYTHON=/path/to/python3.12"
        yield Finding("warning", "Python", f"{text}, which is not tested; {tested} are", remedy)


def packages() -> Iterator[Finding]:
    """Yield the required packages that are missing or of a version that is not supported."""
    from packaging.requirements import Requirement

    try:
        required = [Requirement(text) for text in metadata.requires("imglish") or []]
    except metadata.PackageNotFoundError:
        yield Finding("warning", "packages", "imglish is not installed, only on the path", "pip install -e .")
        return
    required = [one for one in required if one.marker is None]  # the others belong to extras
    problems = []
    for one in required:
        version = installed(one.name)
        if version is None:
            problems.append(f"{one.name} is missing")
        elif not one.specifier.contains(version, prereleases=True):
            problems.append(f"{one.name} is {version}, {one.specifier} is needed")
    if problems:
        yield Finding("error", "packages", "; ".join(problems), "pip install -c constraints.txt -e .")
    else:
        yield Finding("ok", "packages", f"all {len(required)} required ones, in supported versions")


def installed(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def torch_and_what_it_uses(needs_gpu: bool) -> Iterator[Finding]:
    """Yield the findings of torch and of packages beside it, in one process: importing torch takes seconds.

    needs_gpu: the recipe computes in bfloat16. Triton is the last: it is most likely to crash when it is imported.
    """
    yield from torch_and_gpus(needs_gpu)
    yield from flash_attention()
    yield from apex()
    yield from triton()


def torch_and_gpus(needs_gpu: bool) -> Iterator[Finding]:
    """Yield torch, the driver, CUDA, each GPU and NCCL. needs_gpu: the recipe computes in bfloat16."""
    import torch

    yield Finding("ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads of the CPU")
    driver, cuda = driver_version(), torch.version.cuda
    yield Finding("ok", "driver", driver or "no NVIDIA driver is loaded")
    if cuda is None:
        yield _without_cuda(driver is not None, needs_gpu)
    elif not torch.cuda.is_available():
        yield _unavailable(cuda, driver is not None, needs_gpu)
    else:
        yield Finding("ok", "CUDA", f"{cuda}, {torch.cuda.device_count()} GPU(s) are visible")
        yield from _gpus()
    if not torch.cuda.is_available():
        yield Finding("ok", "NCCL", "not used without a GPU; ranks on a CPU use gloo")
    else:
        yield Finding("ok", "NCCL", ".".join(map(str, torch.cuda.nccl.version())))


def driver_version() -> str | None:
    """Return the line in which the loaded NVIDIA driver names its version, None if there is none."""
    try:
        line = DRIVER.read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
    return " ".join(line.removeprefix("NVRM version:").split())


def _without_cuda(has_driver: bool, needs_gpu: bool) -> Finding:
    if has_driver:
        return Finding(
            "warning", "CUDA", "this build of torch has no CUDA, but an NVIDIA driver is loaded: the GPU is not used",
            "install a CUDA build: pip install --force-reinstall torch==2.13.0",
        )  # fmt: skip
    return _cpu_only("a CPU build of torch", needs_gpu)


def _unavailable(cuda: str, has_driver: bool, needs_gpu: bool) -> Finding:
    import torch

    if not has_driver:
        return _cpu_only(f"torch is built for CUDA {cuda}, but no GPU is here", needs_gpu)
    try:
        torch.cuda.init()
        reason = "torch gives no reason"
    except Exception as error:
        reason = str(error).partition("\n")[0]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and not hidden.strip("-1, "):
        return Finding("warning", "CUDA", f"CUDA_VISIBLE_DEVICES {hidden!r} hides all GPUs", "unset it")
    remedy = f"update the driver, or install a build of torch for an older CUDA than {cuda}"
    return Finding("error", "CUDA", f"built for CUDA {cuda}, which finds no GPU: {reason}", remedy)


def _cpu_only(text: str, needs_gpu: bool) -> Finding:
    if needs_gpu:
        text += ": the recipe computes in bfloat16, slow on a CPU"
        return Finding("warning", "CUDA", text, "run it on GPUs, or try it here with --precision float32")
    return Finding("ok", "CUDA", f"{text}: runs use the CPU")


def _gpus() -> Iterator[Finding]:
    import torch

    for number in range(torch.cuda.device_count()):
        device, subject = torch.cuda.get_device_properties(number), f"GPU {number}"
        capability = f"sm_{device.major}{device.minor}"
        free, total = torch.cuda.mem_get_info(number)
        text = f"{device.name}, {capability}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        if device.major < 8:
            remedy = "use GPUs of compute capability 8.0 or later, or --precision float32"
            yield Finding("warning", subject, f"{text}; it has no bfloat16", remedy)
        elif total - free > BUSY_SHARE * total:
            remedy = "end what nvidia-smi lists, or choose other GPUs with CUDA_VISIBLE_DEVICES"
            yield Finding("warning", subject, f"{text}: another program uses it", remedy)
        else:
            yield Finding("ok", subject, text)


def deepspeed_and_ops() -> Iterator[Finding]:
    """Yield DeepSpeed, the optimizer that runs take, and which of its operations are built. Nothing is compiled."""
    importlib.import_module("pretrain.engine")  # chooses the accelerator, before DeepSpeed is imported
    import deepspeed
    import torch
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops import op_builder

    from pretrain.config.run_config import OptimizerConfig
    from pretrain.engine.optimizer import choose_implementation

    yield Finding("ok", "DeepSpeed", f"{deepspeed.__version__} on {get_accelerator().device_name()}")
    builders = [op_builder.CPUAdamBuilder(), *([op_builder.FusedAdamBuilder()] if torch.cuda.is_available() else [])]
    built = [one.NAME for one in builders if importlib.util.find_spec(one.absolute_name()) is not None]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    implementation = choose_implementation(OptimizerConfig(), device)
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    others = [one.NAME for one in builders if one.NAME not in built]
    text = f"built: {', '.join(built) or 'none'}"
    if others:
        text += f"; not built: {', '.join(others)}, compiled on first use " + (
            f"by {compiler}" if compiler else "if there is a C++ compiler"
        )
    yield Finding("ok", "DeepSpeed ops", f"{text}; AdamW of {implementation} is used")


def triton() -> Iterator[Finding]:
    """Yield whether Triton, which our kernels need on a GPU, can be imported."""
    import torch

    subject, version, is_gpu = "Triton", installed("triton"), torch.cuda.is_available()
    if version is None:
        yield (
            Finding("warning", subject, "not installed: --kernels auto takes plain torch, which is slower",
                    "install a CUDA build of torch, which brings Triton")
            if is_gpu
            else Finding("ok", subject, "not installed, and not needed without a GPU")
        )  # fmt: skip
        return
    try:
        importlib.import_module("triton")
    except Exception as error:
        yield from_error(subject, ImportError(f"{version} cannot be imported ({error}); install the one torch names"))
        return
    yield Finding("ok", subject, version if is_gpu else f"{version}, not used without a GPU")


def flash_attention() -> Iterator[Finding]:
    """Yield the attention that torch would run."""
    import torch

    from model.flash_attention import activate_flash_attention

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    attention = activate_flash_attention("auto", device)
    yield Finding("ok", "FlashAttention", attention if device.type == "cuda" else f"{attention}, on the CPU")


def apex() -> Iterator[Finding]:
    """Yield whether the package apex is there, is NVIDIA's, and has the extensions that runs can use."""
    from model.kernels.nvidia_apex import missing_of_apex

    subject = "apex"
    if importlib.util.find_spec("apex") is None:
        yield Finding("ok", subject, "not installed; NVIDIA's is optional")
        return
    if missing_of_apex("normalization") and missing_of_apex("optimizers"):
        summary = metadata.metadata("apex")["Summary"] if installed("apex") else None
        described = f"apex {installed('apex')} of PyPI ({summary})" if summary else "another project of that name"
        remedy = "pip uninstall apex; if you want NVIDIA's, build it from github.com/NVIDIA/apex"
        yield Finding("warning", subject, f"the installed package is not NVIDIA's but {described}", remedy)
        return
    uses = {
        "--kernels apex": missing_of_apex("normalization", "fused_layer_norm_cuda", "fused_dense_cuda"),
        "its fused AdamW": missing_of_apex("optimizers", "amp_C"),
    }
    found = [name for name, missing in uses.items() if missing is None]
    missing = [reason for reason in uses.values() if reason is not None]
    if missing:
        yield from_error(subject, ValueError(missing[0]), "warning")
    if found:
        yield Finding("ok", subject, f"NVIDIA's, usable for {' and '.join(found)}")
