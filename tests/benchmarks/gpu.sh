#!/usr/bin/env bash
# All that needs a GPU, in less than eight minutes: tests, then benchmarks, whose tables it prints.
# Runs the Python that is called python, or $PYTHON, with torch, Triton, DeepSpeed and what tests need (make check sets
# up .venv); liger-kernel and NVIDIA apex are columns where they are installed. Options go to the benchmarks: --append
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
"$python" -c 'import torch, pytest' 2>/dev/null || { echo "error: $python has no torch or pytest; activate .venv"; exit 2; }
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "error: torch sees no GPU"; exit 2; }
"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())'
code=0
run() {  # SECONDS COMMAND...: the rest runs also where this fails
  timeout "$@" || { code=1; echo "error: exit status $? of: timeout $*"; }
}
run 110 "$python" -m pytest -q tests/model/kernels
run 130 "$python" -m pytest -q -m gpu --ignore tests/model/kernels
run 230 "$python" -m tests.benchmarks.bench_kernels "$@"
exit $code
