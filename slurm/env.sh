# What differs from site to site. Read by slurm/pretrain.sbatch; edit a copy and point IMGLISH_ENV at it.

# export NCCL_SOCKET_IFNAME=ib0      # the network interface between nodes
# module load cuda/12.8              # modules of the site
source "${IMGLISH_VENV:-.venv}/bin/activate"
