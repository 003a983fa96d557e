"""The drawn world and its held-out compositions."""

from data_pipeline.samples.sample import Kind
from data_pipeline.samples.scenes import draw_samples


def test_held_out_compositions_never_occur_in_training() -> None:
    held_out = {s.metadata["composition"] for s in draw_samples("pair", 300, split="held_out")}
    kinds: tuple[Kind, ...] = ("image", "pair", "text")
    for kind in kinds:
        assert not held_out & {s.metadata["composition"] for s in draw_samples(kind, 1000)}
