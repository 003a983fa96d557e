"""The list beside weights of what the outputs of a head mean: the answers of vqa, the classes of classify."""

from pathlib import Path

from data_pipeline.samples.answers import ANSWERS_NAME, CLASSES_NAME, read_answers, read_classes
from model.config import ClassHead, Heads, VqaHead


def labels_beside(folder: Path, heads: Heads | None) -> Path | None:
    """Return the list of answers or classes in a folder of weights, None if there is none or the network has no labels.

    Raises ValueError if the list is damaged, or one of another length.
    """
    if isinstance(heads, VqaHead):
        path, read, num_labels = folder / ANSWERS_NAME, read_answers, heads.num_answers
    elif isinstance(heads, ClassHead):
        path, read, num_labels = folder / CLASSES_NAME, read_classes, heads.num_classes
    else:
        return None
    if not path.is_file():
        return None
    if (found := len(read(path))) != num_labels:
        raise ValueError(
            f"{path} has {found} lines, the weights beside it choose among {num_labels}; put the list there that they "
            "were trained with, or move it away"
        )
    return path
