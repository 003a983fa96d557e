"""Options of the evaluating commands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.settings.ranges import Count, check_ranges

Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class MaskedWordsOptions:
    """Accuracy of guessing masked caption words with the right image, a wrong image, and the commonest word; with whole
    images (acc_right_image), and with as many patches hidden as in training (acc_right_masked). Warns if whole images
    are worse. nll is the mean negative log likelihood per token, in nats."""

    source: Run
    """A run, whose newest checkpoint is taken, or one checkpoint folder."""
    pairs: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PAIRS")]
    """Shards of held-out pairs."""
    max_pairs: Count = 1000
    """Pairs to evaluate, the first of the shards."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class MaskedPatchesOptions:
    """Accuracy of guessing the codes of hidden patches (acc), next to two baselines without a network: the commonest
    code of all patches (acc_commonest) and of each place (acc_commonest_at_place), each counted without the patch in
    question; and the mean negative log likelihood (nll) next to the entropy of the codes, both in nats. A few hundred
    images are enough."""

    source: Run
    """A run, whose newest checkpoint is taken, or one checkpoint folder."""
    images: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Shards of held-out images or pairs."""
    visual_tokenizer: Path | None = None
    """The run's visual tokenizer, if it was moved. None: the path in the run's config."""
    max_images: Count = 1000
    """Images to evaluate, the first of the shards."""

    def __post_init__(self) -> None:
        check_ranges(self)
