# shellcheck shell=bash
# What differs from site to site, and nothing else. Edit this file, or a copy that IMGLISH_ENV names.
#
# It is read by every job when it starts, and by your shell before you submit (`. slurm/env.sh`): sbatch takes partition
# and account from there. What you give to sbatch itself goes first.

# export SBATCH_PARTITION=gpu
# export SBATCH_ACCOUNT=my_project

# Where python is: words of these kinds, from left to right. None: the python that a job finds.
#   module:NAME       a module of the site, as in `module load NAME`
#   venv:FOLDER       a virtual environment that all nodes see
#   apptainer:IMAGE   ranks run in this image
#   pyxis:IMAGE       ranks run in this image: a .sqsh file or [USER@][REGISTRY#]IMAGE[:TAG]
# For example "module:cuda/12.8 venv:/project/imglish/.venv"
export IMGLISH_RUNTIME="venv:.venv"

# Folders that a container shows beside the checkout, with a comma between them
# export IMGLISH_MOUNTS=/scratch/shards,/project

# The network between nodes. `ip -br address` on a node lists its interfaces.
# NCCL takes a list of prefixes of names; =NAME is exact, ^NAME leaves out. Without it NCCL chooses.
# export NCCL_SOCKET_IFNAME=ib0
# gloo, over which all ranks agree before each step, takes names. Without it gloo takes the address of the host name.
# export GLOO_SOCKET_IFNAME=ib0
# InfiniBand and RoCE adapters, with the same = and ^. Without it NCCL chooses.
# export NCCL_IB_HCA==mlx5_0,mlx5_1
# VERSION, WARN, INFO or TRACE; INFO prints which interfaces and adapters NCCL took
# export NCCL_DEBUG=WARN
