"""The evaluation of a pretraining run: held-out losses, masked words and patches, codes, classes by frozen features."""

from typing import Any, Protocol

import torch

from data_pipeline.loading.shard_dataset import ShardDataset
from data_pipeline.samples.sample import Kind
from data_pipeline.shards.index import ShardIndex
from data_pipeline.texts.tokenizer import TextTokenizer
from model.visual_tokenizer import VisualTokenizer
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.classes import METHODS, Classes
from pretrain.evaluation.codes import Codes
from pretrain.evaluation.evaluation import Evaluation, Figures, Network, check_best, trained_on
from pretrain.evaluation.held_out_losses import HeldOutLosses
from pretrain.evaluation.labelled import open_labelled
from pretrain.evaluation.samples import HeldOut, check_readable, open_held_out
from pretrain.evaluation.words import choose_words
from pretrain.jobs.pretraining import Pretraining
from pretrain.jobs.visual_tokens import tokenizer_view_size


class FigurePart(Protocol):
    """A group of figures."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def figures(self, network: Network, ranks: Ranks) -> Figures: ...


class PretrainingEvaluation(Evaluation):
    """All parts that the config names and has data for, in a fixed order."""

    def __init__(
        self,
        config: PretrainConfig,
        visual_tokenizer: VisualTokenizer,
        text_tokenizer: TextTokenizer,
        device: torch.device,
        check_shards: bool = True,
    ):
        """check_shards: as `read_index` has it. Raises ValueError if held-out data is missing or unusable."""
        settings, data = config.evaluation, config.data
        image_size = max(config.model.image_size, tokenizer_view_size(visual_tokenizer.config, config.model))
        folders: dict[Kind, str | None] = {"image": settings.images, "pair": settings.pairs, "text": settings.texts}
        held_out: dict[Kind, HeldOut] = {}
        for kind, folder in folders.items():
            if folder is not None:
                setting, tokenizer = f"evaluation.{kind}s", None if kind == "image" else text_tokenizer
                held_out[kind] = open_held_out(
                    folder, setting, kind, settings.num_samples, data, image_size, tokenizer, check_shards
                )
                check_readable(held_out[kind], setting, settings.chunk_size)
        self.parts: list[FigurePart] = []
        self.skipped: list[str] = []
        if "losses" in settings.parts and held_out:
            losses = HeldOutLosses(config, held_out, image_size, visual_tokenizer, text_tokenizer, device)
            self.parts += [losses] if losses.objectives else []
        if "words" in settings.parts and "pair" in held_out and "mvlm_text" in config.objectives:
            self.parts.append(choose_words(config, held_out["pair"], device))
        if "codebook" in settings.parts and "image" in held_out:
            self.parts.append(Codes(config, held_out["image"], visual_tokenizer, device))
        methods = tuple(part for part in METHODS if part in settings.parts)
        if methods and settings.labelled is not None:
            labelled = open_labelled(
                settings.labelled, settings.num_labelled, data, config.model.image_size, check_shards
            )
            self.skipped = [f"skipped {line}" for line in labelled.skipped]
            self.parts.append(Classes(config, labelled, methods, device))
        if not self.parts:
            raise ValueError(
                f"none of evaluation.parts ({', '.join(settings.parts)}) can be computed by this network from the "
                "held-out data; give other data or parts (zero_shot and retrieval need the contrastive heads that "
                "pretrain.contrast trains), or set evaluation.every_steps 0 of a run"
            )
        self.names = tuple(name for part in self.parts for name in part.names)
        check_best(settings.best, self.names)
        self.indexes: dict[str, ShardIndex] = {
            f"evaluation.{kind}s": found.reader.index for kind, found in held_out.items()
        }

    def figures(self, network: Network, ranks: Ranks) -> Figures:
        found: Figures = {}
        for part in self.parts:
            found |= part.figures(network, ranks)
        return found

    def warnings(self, dataset: ShardDataset[Any, Any]) -> list[str]:
        return [*self.skipped, *trained_on(self.indexes, dataset)]


def evaluation_of_pretraining(job: Pretraining, check_shards: bool) -> PretrainingEvaluation | None:
    """Return the evaluation of a prepared job, None if its config has none. Raises ValueError."""
    if not job.config.evaluation.is_on:
        return None
    return PretrainingEvaluation(job.config, job.visual_tokenizer, job.text_tokenizer, job.device, check_shards)
