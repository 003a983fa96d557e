"""python -m tests.benchmarks.study_easy_vqa [--quick]: questions on images that nobody here made, from raw data.

easy-VQA has 4,000 training images of one shape each, with 38,575 questions, and 1,000 test images with 9,673 questions;
13 answers. A network is pretrained on the training images and their questions by masked data modeling, without an
answer, and finetuned with the recipe `easy_vqa`; beside it the same network is finetuned in the same way from random
weights. Both are asked all test questions after every epoch. Everything is done with the project's commands on one core
each, two at once.

It needs matplotlib and the package easy-vqa, which holds the data. A study that was stopped goes on if it has --out.
Ends with a picture and a line of figures, shares of right answers in 0..1: acc, and acc_scratch from random weights,
after the last epoch; acc_no_image, if each question is given the answer that it most often has in training.
"""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

from data_pipeline.settings.ranges import Count, check_ranges
from tests.benchmarks.draw_easy_vqa import draw_accuracies
from tests.benchmarks.easy_vqa_questions import Question, Side, accuracy_without_image, read_questions
from tests.benchmarks.easy_vqa_runs import SCRATCH, Steps, accuracies, finetune, prepare, pretrain, recipe
from tests.benchmarks.packages import require_packages
from tests.benchmarks.results import append_results

ROOT = Path(__file__).parents[2]
PACKAGES = {"easy_vqa": "easy-vqa", "matplotlib": "matplotlib"}
"""Packages by import name."""
CORES = 2
KERAS = 0.938
"""Accuracy after 8 epochs that the author of easy-VQA reports for his script in Keras, a convolutional network."""
QUICK_PART = 20
"""The quick study has one image in so many."""


@dataclass(frozen=True)
class StudyOptions:
    """Questions on images: masked pretraining, then finetuning, against finetuning from random weights."""

    out: Path | None = None
    """Folder for data and runs; finished parts there are not repeated. None: a temporary folder."""
    pretraining_steps: Count = 3000
    """Steps of masked pretraining."""
    quick: bool = False
    """Run for a minute, in a folder of its own; the figures mean little."""
    append: bool = False
    """Write the figures into RESULTS.md and the picture into docs/images."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.quick and self.append:
            raise ValueError("append is for the whole study, not for quick; leave one of them out")

    @property
    def steps(self) -> Steps:
        """Steps of all runs; those of finetuning are the recipe's."""
        if self.quick:
            return Steps(visual_tokenizer=10, pretraining=10, finetuning=20, per_epoch=10)
        config = recipe()
        return Steps(300, self.pretraining_steps, config.num_steps, config.evaluation.every_steps)


def main() -> None:
    options = tyro.cli(StudyOptions)
    require_packages(PACKAGES)
    with tempfile.TemporaryDirectory() as temporary:
        out = (options.out or Path(temporary)).resolve()
        study(options, out / "quick" if options.quick else out)


def study(options: StudyOptions, out: Path) -> None:
    started, steps = time.monotonic(), options.steps
    every = QUICK_PART if options.quick else 1
    questions: dict[Side, list[Question]] = {
        "train": read_questions("train", every),
        "test": read_questions("test", every),
    }
    without_image = accuracy_without_image(questions["train"], questions["test"])
    with ThreadPoolExecutor(CORES) as pool:  # each thread waits for a command
        prepare(questions, out, pool)
        scratch = pool.submit(finetune, None, SCRATCH, steps, out)
        pretrain(steps, out)
        finetune(recipe().initial_weights, recipe().run_dir, steps, out)
        scratch.result()
    curves = {
        "from masked pretraining": accuracies(out / recipe().run_dir, steps.per_epoch),
        "from random weights": accuracies(out / SCRATCH, steps.per_epoch),
    }
    levels = {"Keras script of easy-VQA": KERAS, "commonest answer to each question": without_image}
    picture = (ROOT / "docs" / "images" if options.append else out) / "easy_vqa.png"
    draw_accuracies(curves, levels, picture)
    if options.append or options.out is not None:
        print(picture)
    pretrained, from_random = curves.values()
    figures = {"acc": pretrained[-1], "acc_scratch": from_random[-1], "acc_no_image": without_image}
    for epoch, (accuracy, accuracy_scratch) in enumerate(zip(pretrained, from_random, strict=True)):
        figures |= {f"acc_epoch_{epoch}": accuracy, f"acc_scratch_epoch_{epoch}": accuracy_scratch}
    figures["minutes"] = (time.monotonic() - started) / 60
    if options.append:
        append_results("study_easy_vqa", figures)
    print(" ".join(f"{name}={value:.4f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
