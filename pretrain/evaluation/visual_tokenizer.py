"""The evaluation of a visual tokenizer's training: its loss on held-out images, and the codes that they use."""

from typing import Any

import torch
from torch import Tensor

from data_pipeline.loading.shard_dataset import ShardDataset
from model.quantizer import Codebook
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.codes import codebook_use
from pretrain.evaluation.evaluation import Evaluation, Figures, Network, check_best, trained_on
from pretrain.evaluation.samples import check_readable, open_held_out
from pretrain.jobs.visual_tokenizer import VisualTokenizerTraining

SETTING = "evaluation.images"


class VisualTokenizerEvaluation(Evaluation):
    """The loss of VQ-KD on held-out images, and the use of the codebook."""

    names = ("loss/total", "loss/cosine", "loss/commitment", "codebook/usage", "codebook/perplexity")

    def __init__(self, job: VisualTokenizerTraining, check_shards: bool):
        """check_shards: as `read_index` has it. Raises ValueError if held-out data is missing or unusable."""
        self.job, settings = job, job.config.evaluation
        if settings.images is None or settings.pairs or settings.texts or settings.labelled:
            raise ValueError(f"a visual tokenizer is evaluated on images alone; give {SETTING} and no other folder")
        image_size = max(job.config.model.image_size, job.teacher_size)
        self.images = open_held_out(
            settings.images, SETTING, "image", settings.num_samples, job.config.data, image_size, None, check_shards
        )
        check_readable(self.images, SETTING, settings.chunk_size)
        check_best(settings.best, self.names)

    @torch.no_grad()
    def figures(self, network: Network, ranks: Ranks) -> Figures:
        config, device = self.job.config, self.job.device
        tokenizer: Any = getattr(network, "module", network)
        codebook: Codebook = tokenizer.codebook  # of buffers, which ZeRO does not partition
        if not codebook.is_initialized:  # before the first step, whose features it starts from
            return {}

        def compute(places: range) -> Tensor:
            images, is_good = self.images.images(places)
            view, teacher = self.job.views(images[is_good > 0].to(device))
            cosine, commitment, features = network(view, teacher, config.dtype)
            codes = codebook(features.flatten(0, 1)).view(features.shape[:2]).float()
            # means over a chunk, so that each of its images gets the same
            losses = torch.stack([cosine, commitment, torch.ones_like(cosine)]).expand(len(codes), -1)
            rows = torch.zeros(len(places), losses.shape[1] + codes.shape[1], device=device)
            rows[is_good > 0] = torch.cat([losses, codes], 1)
            return rows

        num_images, chunk_size = self.images.num_samples, config.evaluation.chunk_size
        rows = ranks.by_place(num_images, chunk_size, compute, device, self.images.name)
        rows = rows[rows[:, 2] > 0]
        cosine, commitment = rows[:, :2].double().mean(0).tolist()
        losses = {"loss/total": 1 - cosine + commitment, "loss/cosine": cosine, "loss/commitment": commitment}
        return losses | codebook_use(rows[:, 3:].long().flatten(), config.model.num_codes)

    def warnings(self, dataset: ShardDataset[Any, Any]) -> list[str]:
        return trained_on({SETTING: self.images.reader.index}, dataset)


def evaluation_of_visual_tokenizer(job: VisualTokenizerTraining, check_shards: bool) -> Evaluation | None:
    """Return the evaluation of a prepared job, None if its config has none. Raises ValueError."""
    return VisualTokenizerEvaluation(job, check_shards) if job.config.evaluation.is_on else None
