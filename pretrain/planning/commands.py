"""The commands that start a planned run."""

import math
import shlex
from collections.abc import Iterator, Sequence

from pretrain.planning.stages import GPUS_PER_NODE

SLURM_MODULE = "pretrain.train"
"""Module that slurm/pretrain.sbatch runs unless IMGLISH_MODULE names another."""


def start_lines(arguments: Sequence[str], num_ranks: int, has_gpus: bool, module: str = SLURM_MODULE) -> Iterator[str]:
    """Yield the command for one machine, if one is enough, and that for a Slurm cluster.

    arguments: recipe and overrides; module: the command that trains the recipe.
    """
    words = shlex.join(arguments)
    num_nodes, per_node = nodes(num_ranks)
    if num_nodes == 1:
        yield f"one machine   deepspeed --num_accelerators {num_ranks} --module {module} {words}"
    gres = f"--gres gpu:{per_node} " * has_gpus
    tasks = f"{gres}--ntasks-per-node {per_node}"
    chosen = f"IMGLISH_MODULE={module} " if module != SLURM_MODULE else ""
    yield f"Slurm         {chosen}sbatch --nodes {num_nodes} {tasks} slurm/pretrain.sbatch {words}"
    yield "On Slurm, first edit slurm/env.sh and run `. slurm/env.sh` (slurm/README.md); the job requeues itself."


def nodes(num_ranks: int) -> tuple[int, int]:
    """Return the fewest nodes with the same number of ranks each, and that number: one for up to GPUS_PER_NODE ranks,
    else the largest that divides both."""
    if num_ranks <= GPUS_PER_NODE:
        return 1, num_ranks
    per_node = math.gcd(num_ranks, GPUS_PER_NODE)
    return num_ranks // per_node, per_node
