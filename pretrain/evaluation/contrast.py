"""The evaluation of a dual encoder: contrastive loss, retrieval, zero-shot classification, k-NN and a probe."""

from pathlib import Path
from typing import Any

import torch

from data_pipeline.loading.config import DataConfig
from data_pipeline.loading.shard_dataset import ShardDataset
from data_pipeline.sources.readers import SourceOptions
from data_pipeline.texts.prompts import read_class_names, read_templates
from data_pipeline.texts.tokenizer import TextTokenizer
from pretrain.config.contrast import ContrastConfig
from pretrain.config.evaluation import EvaluationConfig
from pretrain.evaluation.captioned_images import CaptionedImages, open_captioned_images
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.class_figures import ClassFigures
from pretrain.evaluation.classes import METHODS
from pretrain.evaluation.dual_features import FeatureReader, FeatureSettings
from pretrain.evaluation.evaluation import Evaluation, Figures, Network, check_best, trained_on
from pretrain.evaluation.labelled import Labelled, open_labelled
from pretrain.evaluation.options import HELD_OUT_SOURCE
from pretrain.evaluation.pair_figures import PairFigures
from pretrain.jobs.job import Job

PAIRS = "evaluation.pairs"
OF_PAIRS, OF_CLASSES = ("losses", "retrieval"), ("zero_shot", *METHODS)
"""Parts that are computed from pairs, and from labelled images."""


class ContrastEvaluation(Evaluation):
    """All parts that the settings name and have data for, in a fixed order."""

    def __init__(
        self,
        settings: EvaluationConfig,
        data: DataConfig,
        features: FeatureSettings,
        check_shards: bool = True,
        max_pairs: int | None = None,
        source: SourceOptions = HELD_OUT_SOURCE,
    ):
        """check_shards: as `read_index` has it; max_pairs: the first of the pairs, None for all; source: how pairs that
        are not shards are read. Raises ValueError if held-out data is missing or unusable, OSError."""
        if settings.images or settings.texts:
            raise ValueError(
                f"a dual encoder is evaluated on pairs and labelled images; give {PAIRS} or evaluation.labelled, and "
                "leave evaluation.images and evaluation.texts out"
            )
        self.features, size = features, features.image_size
        self.parts: list[PairFigures | ClassFigures] = []
        self.pairs: CaptionedImages | None = None
        self.labelled: Labelled | None = None
        of_pairs = tuple(part for part in settings.parts if part in OF_PAIRS)
        if of_pairs and settings.pairs is not None:
            self.pairs = open_captioned_images(
                settings.pairs, PAIRS, max_pairs, settings.captions_per_image, data, size, check_shards, source
            )
            _check_readable(self.pairs, settings.chunk_size)
            self.parts.append(PairFigures(self.pairs, of_pairs))
        of_classes = tuple(part for part in settings.parts if part in OF_CLASSES)
        if of_classes and settings.labelled is not None:
            has_texts = "zero_shot" in of_classes
            self.labelled = open_labelled(
                settings.labelled,
                settings.num_labelled,
                data,
                size,
                check_shards,
                with_all_classes=has_texts,
                keeps_images=False,
                is_split=of_classes != ("zero_shot",),
            )
            # by default those of training, of which data has the files
            class_names = settings.class_names or data.class_names
            names = read_class_names(class_names, self.labelled.classes) if has_texts else []
            templates = read_templates(settings.templates or data.templates) if has_texts else ()
            self.parts.append(ClassFigures(self.labelled, of_classes, names, templates))
        if not self.parts:
            raise ValueError(
                f"none of evaluation.parts ({', '.join(settings.parts)}) can be computed from the held-out data of a "
                "dual encoder; give pairs or labelled images, or set evaluation.every_steps 0 of a run"
            )
        self.names = tuple(name for part in self.parts for name in part.names)
        check_best(settings.best, self.names)

    def figures(self, network: Network, ranks: Ranks) -> Figures:
        reader = FeatureReader(network, self.features, ranks)
        found: Figures = {}
        for part in self.parts:
            found |= part.figures(reader)
        return found

    def warnings(self, dataset: ShardDataset[Any, Any]) -> list[str]:
        index = None if self.pairs is None else self.pairs.index
        return [*self.skipped, *([] if index is None else trained_on({PAIRS: index}, dataset))]

    @property
    def skipped(self) -> list[str]:
        """One line for each reason for which pairs or labelled images are left out."""
        return [f"skipped {line}" for data in (self.pairs, self.labelled) if data is not None for line in data.skipped]

    def describe(self) -> list[str]:
        """Return one line for each kind of data, on what the last evaluation used."""
        return [part.describe() for part in self.parts]


def _check_readable(pairs: CaptionedImages, num_tried: int) -> None:
    """Raise ValueError if none of the first images can be read."""
    _, is_good = pairs.images(range(min(num_tried, pairs.num_images)))
    if not is_good.any():
        raise ValueError(
            f"{PAIRS} {pairs.source}: none of its first {len(is_good)} images can be read; give other pairs"
        )


def feature_settings(
    config: ContrastConfig, device: torch.device, text_tokenizer: Path | None = None
) -> FeatureSettings:
    """Return how a run's network takes images and texts: as captions of its pairs, in its precision.

    text_tokenizer: None for that of the settings.
    """
    path = text_tokenizer or config.data.text_tokenizer
    assert path is not None
    return FeatureSettings(
        image_size=config.model.image_size,
        patch_size=config.model.patch_size,
        tokenizer=TextTokenizer(path),
        text_length=config.data.caption_length,
        chunk_size=config.evaluation.chunk_size,
        dtype=config.dtype,
        device=device,
    )


def evaluation_of_contrast(job: Job[ContrastConfig], check_shards: bool) -> ContrastEvaluation | None:
    """Return the evaluation of a prepared job, None if its config has none. Raises ValueError."""
    settings = job.config.evaluation
    if not settings.is_on:
        return None
    features = feature_settings(job.config, job.device)
    return ContrastEvaluation(settings, job.config.data, features, check_shards, settings.num_samples)
