"""What this machine has: python -m tests.benchmarks.machine [--dry]

Prints versions, the GPU and the packages that are missing, each with what needs it. Ends with 2 if torch or a GPU is
missing; --dry needs no GPU. Imports nothing but the standard library before it knows what is there.
"""

import importlib.util
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from tests.benchmarks.packages import install_line

RUN = {
    "deepspeed": "deepspeed", "hjson": "hjson", "psutil": "psutil", "py-cpuinfo": "cpuinfo", "msgpack": "msgpack",
    "einops": "einops", "ninja": "ninja", "packaging": "packaging", "pydantic": "pydantic",
    "pydantic_core": "pydantic_core", "annotated-types": "annotated_types", "typing-inspection": "typing_inspection",
    "tqdm": "tqdm", "numpy": "numpy", "pillow": "PIL", "safetensors": "safetensors", "sentencepiece": "sentencepiece",
    "tyro": "tyro", "docstring_parser": "docstring_parser", "typeguard": "typeguard",
}  # fmt: skip
"""Packages of every run and of what they import, with the modules that they bring."""
TESTS = {
    "pytest": "pytest", "pluggy": "pluggy", "iniconfig": "iniconfig", "pygments": "pygments",
    "hypothesis": "hypothesis", "sortedcontainers": "sortedcontainers",
}  # fmt: skip
"""Packages of the tests and of what they import."""
PEERS = {"torchscale": "torchscale", "fairscale": "fairscale", "timm": "timm", "torchvision": "torchvision"}
"""Packages that `gpu.sh compare` needs besides."""
OPTIONAL = {"pytest-xdist": "xdist", "liger-kernel": "liger_kernel"}


def missing(packages: dict[str, str]) -> list[str]:
    return [name for name, module in packages.items() if importlib.util.find_spec(module) is None]


def main() -> int:
    print(f"python {platform.python_version()}, {platform.platform()}", flush=True)
    for name in ("torch", "triton", "deepspeed", "numpy"):
        try:
            print(f"{name} {version(name)}", flush=True)
        except PackageNotFoundError:
            print(f"{name} is missing", flush=True)
    for purpose, packages in {"runs": RUN, "tests": TESTS, "compare": PEERS, "nothing essential": OPTIONAL}.items():
        if lacking := missing(packages):
            print(f"missing for {purpose}: {', '.join(lacking)}; {install_line(lacking)}", flush=True)
    if importlib.util.find_spec("torch") is None:
        print(f"error: {sys.executable} has no torch; set PYTHON to one that has", file=sys.stderr)
        return 2
    return describe_gpu(is_dry="--dry" in sys.argv)


def describe_gpu(is_dry: bool) -> int:
    """Print the GPU and what torch brings for it; return the exit code."""
    import torch

    if is_dry:
        print(f"dry run: nothing is measured; GPUs that torch sees: {torch.cuda.device_count()}")
        return 0
    if not torch.cuda.is_available():
        print("error: torch sees no GPU; --dry tries on a CPU whether everything runs", file=sys.stderr)
        return 2
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    print(f"{torch.cuda.device_count()} x {properties.name}, {properties.multi_processor_count} multiprocessors")
    print(f"memory {free / 1e9:.1f} of {total / 1e9:.1f} GB free, CUDA {torch.version.cuda}, cuDNN "
          f"{torch.backends.cudnn.version()}, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
