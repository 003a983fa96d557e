"""A rank whose libraries print while it starts: python -m tests.support.startup_ranks RUN ENDING

ENDING: `goes on`, `mistake`, `exception`, `abort` (a library ends the process in C).
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from pretrain.survival.console import say, warn
from pretrain.survival.startup_log import begin_startup, end_startup
from pretrain.survival.stop import end_as_mistake, end_process


def main() -> None:
    run_dir, ending = Path(sys.argv[1]), sys.argv[2]
    begin_startup(run_dir)
    print("a library in Python")
    print("a warning in Python", file=sys.stderr)
    ctypes.CDLL(None).puts(b"a library in C")
    subprocess.run(["sh", "-c", "echo a compiler; echo its warning >&2"], check=True)
    say("ours")
    warn("warning: ours")
    if ending == "mistake":
        end_as_mistake("there is no such teacher")
    if ending == "exception":
        raise RuntimeError("no driver")
    if ending == "abort":
        os.abort()
    end_startup()
    print("a library later")
    ctypes.CDLL(None).puts(b"a library in C later")
    end_process(0)


if __name__ == "__main__":
    main()
