# shellcheck shell=bash
# Settings of the site. Edit this file, or a copy and point IMGLISH_ENV to it.
#
# Every job sources it at its start, and your shell before you submit (`. slurm/env.sh`): sbatch takes partition and
# account from the environment. Options of sbatch take precedence.

# export SBATCH_PARTITION=gpu
# export SBATCH_ACCOUNT=my_project

# Where to find python: a list of the following, applied from left to right. Empty: the python on the job's PATH.
#   module:NAME       a module of the site, as in `module load NAME`
#   venv:FOLDER       a virtual environment on a file system that all nodes see
#   apptainer:IMAGE   ranks run in this image
#   pyxis:IMAGE       ranks run in this image: a .sqsh file or [USER@][REGISTRY#]IMAGE[:TAG]
# For example "module:cuda/12.8 venv:/project/imglish/.venv"
export IMGLISH_RUNTIME="venv:.venv"

# Folders that a container mounts besides the checkout, separated by commas
# export IMGLISH_MOUNTS=/scratch/shards,/project

# The network between nodes. `ip -br address` on a node lists its interfaces.
# NCCL takes a list of prefixes of names; =NAME is exact, ^NAME excludes. If unset, NCCL chooses.
# export NCCL_SOCKET_IFNAME=ib0
# gloo, over which all ranks agree before each step, takes names. If unset, gloo uses the address of the host name.
# export GLOO_SOCKET_IFNAME=ib0
# InfiniBand and RoCE adapters, with the same = and ^. If unset, NCCL chooses.
# export NCCL_IB_HCA==mlx5_0,mlx5_1
# VERSION, WARN, INFO or TRACE; INFO prints the interfaces and adapters that NCCL uses
# export NCCL_DEBUG=WARN
