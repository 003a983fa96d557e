"""Figures of a dual encoder on labelled images: zero-shot classification, and k-NN and a probe on the same features."""

from dataclasses import dataclass

from data_pipeline.texts.prompts import prompts
from pretrain.config.evaluation import Part
from pretrain.evaluation.classes import METHODS, accuracies
from pretrain.evaluation.dual_features import FeatureReader
from pretrain.evaluation.evaluation import Figures, left_out
from pretrain.evaluation.labelled import Labelled
from pretrain.evaluation.zero_shot import accuracy_names, class_features, zero_shot_accuracy


@dataclass
class ClassFigures:
    """Accuracies of the classes of labelled images. Zero-shot classification tests all of them; k-NN and the probe
    test every second one, as in pretraining."""

    labelled: Labelled
    parts: tuple[Part, ...]
    class_names: list[str]
    """A name for each class of the labelled images; empty without zero-shot classification."""
    templates: tuple[str, ...]
    num_measured: int | None = None
    """Number of images that the last evaluation could use; None before the first."""

    @property
    def names(self) -> tuple[str, ...]:
        zero_shot = accuracy_names(len(self.labelled.classes)) if "zero_shot" in self.parts else ()
        return (*zero_shot, *(f"{part}/acc" for part in self._methods))

    @property
    def _methods(self) -> tuple[Part, ...]:
        return tuple(part for part in METHODS if part in self.parts)

    def figures(self, reader: FeatureReader) -> Figures:
        """Return the figures. All ranks call it. Raises Interrupted."""
        images = reader.of_images(self.labelled, len(self.labelled.labels), self.labelled.name)
        self.num_measured = int(images.is_good.sum())
        found: Figures = {}
        if "zero_shot" in self.parts:
            texts = reader.of_texts(prompts(self.class_names, self.templates))
            classes = class_features(texts.rows, len(self.class_names))
            found = dict.fromkeys(accuracy_names(len(classes)), float("nan"))
            if images.is_good.any():
                tested = images.rows[images.is_good], classes, self.labelled.labels[images.is_good]
                found = zero_shot_accuracy(*tested)
        return found | accuracies(self._methods, self.labelled, images.rows, images.is_good)

    def describe(self) -> str:
        """Return a line on the images that the last evaluation used."""
        num_images, num_classes = len(self.labelled.labels), len(self.labelled.classes)
        num_measured = num_images if self.num_measured is None else self.num_measured
        without = left_out(num_images - num_measured)
        texts = f", {len(self.templates)} texts for each" * bool(self.templates)
        return f"{num_measured} images of {num_classes} classes from {self.labelled.folder}{without}{texts}"
