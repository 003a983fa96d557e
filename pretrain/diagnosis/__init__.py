"""Is this machine ready for a run? Checks, one function each, whose findings python -m pretrain.doctor prints.

No module here imports torch or DeepSpeed at import time: each check runs in a process of its own (isolation.py), so
that a package that crashes or hangs when it is imported is a finding like any other.
"""
