"""Data settings of a finetuning run: the shards of its task, and the lists that its labels refer to."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from data_pipeline.files.remote_files import is_remote, public_url
from data_pipeline.loading.config import LoaderConfig, parse_source
from data_pipeline.samples.answers import ANSWERS_NAME, CLASSES_NAME, read_answers, read_classes
from data_pipeline.samples.sample import Kind
from data_pipeline.samples.tasks import TASK_KINDS, Task
from data_pipeline.settings.changes import MayChange
from data_pipeline.settings.ranges import PartBelowOne, TextLength, check_ranges
from data_pipeline.shards.index import read_index


@dataclass(frozen=True)
class TaskDataConfig(LoaderConfig):
    """Shards of a task, tokenizer and augmentation. Batch sizes belong to the run."""

    shards: MayChange[tuple[str, ...]] = ()
    """Folders or URLs of shards of the task's kind. The samples of FOLDER=2 are seen twice as often as those of the
    others."""
    held_out: MayChange[str | None] = None
    """Folder or URL of shards on which the run is evaluated. None: it is not."""
    text_tokenizer: MayChange[Path | None] = None
    """SentencePiece model, such as beit3.spm. Not needed for classification."""
    text_length: TextLength = 64
    """Tokens per question, statement or caption, including <s> and </s>. Longer ones are cut, shorter ones padded."""
    answers: MayChange[Path | None] = None
    """List of the answers that a network can give, for task vqa: the label of an answer is its place. By default
    answer2label.txt in the first of the shard folders."""
    classes: MayChange[Path | None] = None
    """List of the classes, for task classify. By default classes.txt in the first of the shard folders."""
    min_crop_scale: Annotated[float, Interval(gt=0, le=1)] = 0.5
    """Smallest fraction of an image's area that the random crop keeps."""
    color_jitter: PartBelowOne = 0.0
    """Strength of brightness, contrast and saturation jitter."""
    rand_augment: bool = False
    """Whether a view also gets two random operations, as in Microsoft's finetuning code: shear, translation, rotation,
    brightness, sharpness and others (RandAugment); for classify timm's rand-m9-mstd0.5-inc1 and random erasing."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for entry in self.shards:
            parse_source(entry)
        if self.held_out is not None:
            is_remote(self.held_out)  # raises for a protocol that is not read

    def public(self) -> "TaskDataConfig":
        """Return the same without passwords and signatures of URLs."""
        held_out = None if self.held_out is None else public_url(self.held_out)
        return replace(self, shards=tuple(map(public_url, self.shards)), held_out=held_out)


def label_file(config: TaskDataConfig, task: Task) -> Path | None:
    """Return the list of answers or classes of a task; None for a task without one. Raises ValueError if it is not
    given and cannot lie beside the shards."""
    if task == "vqa":
        return config.answers or _beside_shards(config, ANSWERS_NAME, "--data.answers")
    if task == "classify":
        return config.classes or _beside_shards(config, CLASSES_NAME, "--data.classes")
    return None


def labels_of(config: TaskDataConfig, task: Task) -> list[str] | None:
    """Return the answers or classes of a task, in the order of their labels; None for a task without a list.

    Raises ValueError if the list is missing or damaged, and says so if the shards are those of another task.
    """
    path = label_file(config, task)
    if path is None:
        return None
    option = "--data.answers" if task == "vqa" else "--data.classes"
    if not path.exists():
        if path not in (config.answers, config.classes):
            _check_kind(path.parent, TASK_KINDS[task])
        raise ValueError(
            f"list {path} does not exist; data_pipeline.write_shards writes it beside the shards; to use another, give "
            f"{option}"
        )
    return read_answers(path) if task == "vqa" else read_classes(path)


def _check_kind(folder: Path, needed: Kind) -> None:
    """Raise ValueError if a folder holds no shards, or those of another kind."""
    if (kind := read_index(folder, check_shards=False).kind) != needed:
        raise ValueError(f"data.shards {folder} holds shards of kind {kind!r}, not {needed!r}; give the right folder")


def _beside_shards(config: TaskDataConfig, name: str, option: str) -> Path:
    if not config.shards:
        raise ValueError("data.shards names no folder; give shards of the task")
    folder, _ = parse_source(config.shards[0])
    if is_remote(folder):
        raise ValueError(f"{name} is not looked for at a URL; copy it from beside the shards and give it with {option}")
    return Path(folder) / name
