#!/usr/bin/env bash
# What a GPU has to show, in parts: tests/benchmarks/gpu.sh [PART ...] [--dry] [--out FILE]. Without a part it lists them.
# Runs $PYTHON, else .venv's, else python3; needs no git and no network.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-}
for candidate in .venv/bin/python "$(command -v python3 || true)" "$(command -v python || true)"; do
  [ -n "$python" ] || { [ -x "$candidate" ] && python=$candidate; } || true
done
[ -n "$python" ] || { echo "error: no python3 is found; set PYTHON=/path/to/python3" >&2; exit 2; }
exec "$python" -m tests.benchmarks.gpu "$@"
