"""The codes of held-out images: how many of the codebook they use, and how often the commonest guess is right.

The visual tokenizer of a pretraining run is frozen, so both are computed once; they say how hard the task is.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.visual_tokenizer import VisualTokenizer
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.evaluation import Figures, Network
from pretrain.evaluation.held_out import training_masks
from pretrain.evaluation.masked_patches import commonest_left_out
from pretrain.evaluation.samples import HeldOut
from pretrain.jobs.visual_tokens import tokenizer_dtype, tokenizer_view, tokenizer_view_size


@dataclass(frozen=True)
class Codes:
    """Use of the codebook, and the accuracy of the commonest code on the patches that are hidden."""

    config: PretrainConfig
    images: HeldOut
    visual_tokenizer: VisualTokenizer
    device: torch.device
    _found: Figures = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        hidden = self.config.num_masked_patches > 0
        return ("codebook/usage", "codebook/perplexity", *["patches/acc_commonest"] * hidden)

    def figures(self, network: Network, ranks: Ranks) -> Figures:
        """Return the figures. All ranks call it. network: not used."""
        if not self._found:
            self._found.update(self._compute(ranks))
        return dict(self._found)

    def _compute(self, ranks: Ranks) -> Figures:
        size = tokenizer_view_size(self.visual_tokenizer.config, self.config.model)
        dtype = tokenizer_dtype(self.config, self.device)

        def compute(places: range) -> Tensor:
            images, is_good = self.images.images(places)
            codes = self.visual_tokenizer.tokenize(tokenizer_view(images.to(self.device), size), dtype)
            return torch.cat([codes.float(), is_good[:, None].to(self.device)], 1)  # exact: codes are below 2^24

        num_images, chunk_size = self.images.num_samples, self.config.evaluation.chunk_size
        rows = ranks.by_place(num_images, chunk_size, compute, self.device, self.images.name)
        is_good = rows[:, -1] > 0
        codes = rows[is_good, :-1].long()
        found = codebook_use(codes.flatten(), self.visual_tokenizer.config.num_codes)
        if self.config.num_masked_patches > 0:
            hidden = codes[training_masks(self.config, len(rows))[is_good]]
            found["patches/acc_commonest"] = commonest_left_out(hidden) / len(hidden)
        return found


def codebook_use(codes: Tensor, num_codes: int) -> Figures:
    """Return the share of the codes that occur in (n,) codes, and the perplexity of their frequencies."""
    shares = torch.bincount(codes, minlength=num_codes).double() / len(codes)
    return {
        "codebook/usage": float((shares > 0).double().mean()),
        "codebook/perplexity": float(torch.special.entr(shares).sum().exp()),
    }
