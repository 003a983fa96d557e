"""Texts of labelled images among the pairs: the readable name of a class in a template.

Classes, names and templates are those of zero-shot classification (texts/prompts.py), so that a dual encoder is trained
on the texts that it is evaluated with. The template is drawn by the sample's id.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data_pipeline.files.remote_files import is_remote
from data_pipeline.loading.config import DataConfig
from data_pipeline.loading.shard_dataset import CAPTION, sample_generator
from data_pipeline.samples.answers import CLASSES_NAME, read_classes
from data_pipeline.samples.sample import BadSampleError
from data_pipeline.samples.tasks import Annotation, ClassAnnotation
from data_pipeline.texts.prompts import prompts, read_class_names, read_templates
from data_pipeline.texts.tokenizer import TextTokenizer, UnknownShare, unknown_share


class ClassTexts:
    """Texts for the classes of labelled images."""

    def __init__(self, names: Mapping[str, str], templates: Sequence[str]):
        """names: the readable name of each class."""
        self.names, self.templates = names, templates

    @property
    def fingerprint(self) -> str:
        """Digits that are equal for equal names and templates."""
        content = json.dumps([sorted(self.names.items()), list(self.templates)])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def name(self, annotation: Annotation) -> str:
        """Return the readable name of a sample's class. Raises BadSampleError if the class is not in the list."""
        assert isinstance(annotation, ClassAnnotation)
        if annotation.name not in self.names:
            raise BadSampleError(f"class is not in the class list ({annotation.name!r:.60})")
        return self.names[annotation.name]

    def text(self, name: str, seed: int, sample_id: int) -> str:
        """Return a text for a class; name: its readable one."""
        number = int(sample_generator(seed, sample_id, CAPTION).integers(len(self.templates)))
        return prompts([name], [self.templates[number]])[0]

    def covered_share(self, tokenizer: TextTokenizer) -> UnknownShare:
        """Return the share of `<unk>` in the names, by which alone the texts of classes differ."""
        return sum((unknown_share(tokenizer.encode(name)) for name in self.names.values()), UnknownShare())


def open_class_texts(config: DataConfig, folders: Iterable[str]) -> ClassTexts:
    """Return the texts for the classes of shards of kind label in these folders or at these URLs.

    Raises ValueError if a list of classes, their names or the templates are missing or damaged.
    """
    if config.classes is not None:
        classes = set(read_classes(config.classes))
    else:
        classes = {name for folder in folders for name in read_classes(_list_beside(folder))}
    listed = sorted(classes)
    names = read_class_names(config.class_names, listed, "data")
    return ClassTexts(dict(zip(listed, names, strict=True)), read_templates(config.templates, "data"))


def _list_beside(folder: str) -> Path:
    if is_remote(folder):
        raise ValueError(
            f"{CLASSES_NAME} is not looked for at the URL {folder}; copy it from beside the shards and "
            "give it with --data.classes"
        )
    return Path(folder) / CLASSES_NAME
