"""One rank of a codebook that learns from features of all ranks:

    python -m tests.support.codebook_ranks OUT REVIVAL_THRESHOLD

Fifty steps on the same global features for any number of ranks. Fails if ranks differ in a bit after a step; the main
rank writes the codebook to OUT.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from model.quantizer import Codebook
from pretrain.jobs.codebook_step import start_codebook, update_codebook
from pretrain.survival.stop import end_process

NUM_STEPS, NUM_FEATURES, NUM_CODES, DIM = 50, 240, 24, 8


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())  # ranks differ: no result may depend on this
    codebook = Codebook(NUM_CODES, DIM)
    start_codebook(codebook, own_features(0), seed=3)
    check_ranks_agree(codebook)
    uses = []
    for step in range(NUM_STEPS):
        use = update_codebook(
            codebook, own_features(step), decay=0.8, revival_threshold=float(sys.argv[2]), seed=3, step=step
        )
        check_ranks_agree(codebook)
        uses.append({name: value.item() for name, value in use.items()})
    if dist.get_rank() == 0:
        torch.save({"state": codebook.state_dict(), "uses": uses}, Path(sys.argv[1]))


def own_features(step: int) -> torch.Tensor:
    """Return this rank's part of features that drift, so that codes die."""
    generator = torch.Generator().manual_seed(step)
    features = torch.randn(NUM_FEATURES, DIM, generator=generator) + 2 * torch.eye(DIM)[step // 10]
    return features.chunk(dist.get_world_size())[dist.get_rank()]


def check_ranks_agree(codebook: Codebook) -> None:
    for name, own in codebook.named_buffers():
        others = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(others, own)
        assert all(torch.equal(other, own) for other in others), name


if __name__ == "__main__":
    main()
    end_process(0)
