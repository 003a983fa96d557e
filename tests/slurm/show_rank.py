"""Print the environment variables that a rank gets."""

import os

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS", "SLURMD_NODENAME")

if __name__ == "__main__":
    print("rank:", *(f"{name}={os.environ[name]}" for name in (*NAMES, "CUDA_VISIBLE_DEVICES")), flush=True)
