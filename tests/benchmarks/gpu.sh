#!/usr/bin/env bash
# All that needs a GPU, in less than eight minutes: tests, then benchmarks, whose tables it prints.
# Needs torch, Triton, DeepSpeed and pytest in the Python that is called python; liger-kernel and NVIDIA apex are used
# where they are. Options go to the benchmarks: tests/benchmarks/gpu.sh --append
set -euo pipefail
cd "$(dirname "$0")/../.."
python -c 'import torch; assert torch.cuda.is_available(), "no GPU"; print(torch.__version__, torch.cuda.get_device_name())'
code=0
timeout 110 python -m pytest -q -m "not slow" tests/model/kernels || code=$?
timeout 130 python -m pytest -q -m gpu || code=$?
timeout 230 python -m tests.benchmarks.bench_kernels "$@" || code=$?
exit $code
