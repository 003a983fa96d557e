#!/usr/bin/env bash
# Tests and benchmarks that need a GPU, in less than eight minutes; prints the tables of the benchmarks.
#   tests of the kernels, tests that need a GPU     outputs and gradients against plain torch
#   bench_kernels --quick                           operations of base compared with eager, torch.compile, apex, Liger
#   bench_step                                      a step of base and of the giant compared with torchscale: seconds, MFU, GB
#   profile_step                                    a step of the giant as in its recipe, by category
# More, without the limit: bench_kernels (the giant's operations), bench_step (large; torchscale compiled).
# Runs python, or $PYTHON, which needs torch, Triton, DeepSpeed and the requirements of the tests (make check sets up
# .venv); liger-kernel and NVIDIA apex are compared if installed. Options go to the benchmarks: --append
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
"$python" -c 'import torch, pytest' 2>/dev/null || { echo "error: $python has no torch or pytest; activate .venv"; exit 2; }
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "error: torch sees no GPU"; exit 2; }
"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())'
code=0
run() {  # SECONDS COMMAND...: the rest runs even if this fails
  timeout "$@" || { code=1; echo "error: exit status $? of: timeout $*"; }
}
run 100 "$python" -m pytest -q tests/model/kernels
run 90 "$python" -m pytest -q -m gpu --ignore tests/model/kernels
run 70 "$python" -m tests.benchmarks.bench_kernels --quick "$@"
run 150 "$python" -m tests.benchmarks.bench_step --sizes base giant_decoupled --rounds 5 --no-compile-peer "$@"
run 60 "$python" -m tests.benchmarks.profile_step "$@"
exit $code
