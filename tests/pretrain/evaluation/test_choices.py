"""Figures of answers, statements and classes against values worked out by hand. CPU, milliseconds."""

import math
from pathlib import Path

import pytest
import torch

from data_pipeline.loading.task_config import TaskDataConfig
from data_pipeline.loading.task_sample import TaskLabels
from data_pipeline.samples.tasks import TASK_KINDS, Task
from pretrain.evaluation.choices import choice_figures, choice_names, choice_results, choice_rows
from pretrain.evaluation.task_samples import HeldOutTask, open_held_out_task
from pretrain.formats.preprocessing import Preprocessing
from tests.support.task_networks import write_by_hand

COLORS = ["red", "green", "blue"]
ALL_GOOD = torch.ones(4, dtype=torch.bool)


def opened(folder: Path, task: Task, annotations: list[dict[str, object]], names: list[str] | None) -> HeldOutTask:
    write_by_hand(folder, TASK_KINDS[task], annotations, names or [])
    labels, preprocessing = TaskLabels(task, names), Preprocessing(16, text_length=8)
    return open_held_out_task(str(folder), "--held-out", TaskDataConfig(), labels, None, preprocessing)


def likes(*labels: int, num_labels: int = 3) -> torch.Tensor:
    """Return logits of which those of `labels` are the highest by 1."""
    return torch.nn.functional.one_hot(torch.tensor(labels), num_labels).float()


def questions(*answers: dict[str, float] | None) -> list[dict[str, object]]:
    return [
        {"question_id": number, **({} if found is None else {"answers": found})} for number, found in enumerate(answers)
    ]


def test_accuracy_of_answers_is_the_mean_of_their_scores(tmp_path: Path) -> None:
    samples = opened(
        tmp_path,
        "vqa",
        questions({"red": 1.0, "pink": 0.3}, {"green": 0.6, "red": 0.9}, {"teal": 1.0}, {"blue": 0.3}),
        COLORS,
    )
    targets = torch.tensor([[1.0, 0, 0], [0.9, 0.6, 0], [0, 0, 0], [0, 0, 0.3]])
    rows = choice_rows("vqa", likes(0, 1, 2, 2), targets)
    found = choice_figures(samples, rows, ALL_GOOD)
    assert found["vqa/acc"] == pytest.approx((1.0 + 0.6 + 0 + 0.3) / 4)
    # "red" is the best guess without looking; an answer that is not in the list counts among them too
    assert found["vqa/acc_commonest"] == pytest.approx(1.9 / 4)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(likes(0, 1, 2, 2), targets) * 3
    assert found["loss/vqa"] == pytest.approx(float(expected), rel=1e-6)
    assert tuple(found) == choice_names("vqa", 3)
    assert choice_results(samples, rows, ALL_GOOD) == [(0, "red"), (1, "green"), (2, "blue"), (3, "blue")]


def test_accuracy_is_computed_from_the_answers_of_people_if_they_are_known(tmp_path: Path) -> None:
    """As they wrote them, "Red" and "a red one" are other answers than "red", and "2" is none of theirs."""
    people = [["Red"] * 2 + ["red."] * 2 + ["a red one"] * 6, ["two"] * 3 + ["three"] * 7, ["green"] * 10]
    annotations: list[dict[str, object]] = [
        {"question_id": number, "answers": {"red": 0.3}, "human_answers": answers}
        for number, answers in enumerate(people)
    ]
    samples = opened(tmp_path, "vqa", annotations, ["red", "2", "green"])
    rows = choice_rows("vqa", likes(0, 1, 0), torch.zeros(3, 3))
    found = choice_figures(samples, rows, ALL_GOOD[:3])
    assert found["vqa/acc"] == pytest.approx((1.0 + 0.9 + 0.0) / 3)
    assert found["vqa/acc_commonest"] == pytest.approx(1 / 3)


def test_the_commonest_answer_is_scored_as_an_answer_of_the_network_would_be(tmp_path: Path) -> None:
    """Nothing is normalized if all people agree: "2" is then another answer than "two"."""
    annotations: list[dict[str, object]] = [
        {"question_id": 0, "answers": {"2": 1.0}, "human_answers": ["two"] * 10},
        {"question_id": 1, "answers": {"red": 0.3}, "human_answers": ["red", *["a wall"] * 9]},
    ]
    samples = opened(tmp_path, "vqa", annotations, ["red", "2", "wall"])
    found = choice_figures(samples, choice_rows("vqa", likes(1, 2), torch.zeros(2, 3)), ALL_GOOD[:2])
    assert found["vqa/acc"] == pytest.approx(0.5) and found["vqa/acc_commonest"] == pytest.approx(0.5)


def test_samples_without_answers_and_unreadable_ones_weigh_nothing(tmp_path: Path) -> None:
    samples = opened(tmp_path, "vqa", questions({"red": 1.0}, None, {"green": 1.0}, {"blue": 1.0}), COLORS)
    rows = choice_rows("vqa", likes(0, 1, 1, 0), torch.zeros(4, 3))
    is_good = torch.tensor([True, True, True, False])
    assert choice_figures(samples, rows, is_good)["vqa/acc"] == 1.0
    # results are for the server, which knows the answers
    assert choice_results(samples, rows, is_good) == [(0, "red"), (1, "green"), (2, "green")]
    nothing = choice_figures(samples, rows, ~ALL_GOOD)
    assert all(math.isnan(value) for value in nothing.values())


def test_statements_are_right_or_wrong(tmp_path: Path) -> None:
    annotations: list[dict[str, object]] = [
        {"identifier": f"dev-{n}-0-1", "label": label} for n, label in enumerate((1, 1, 0, 1))
    ]
    samples = opened(tmp_path, "nlvr2", annotations, None)
    targets = torch.tensor([1, 1, 0, 1])
    rows = choice_rows("nlvr2", likes(1, 0, 0, 0, num_labels=2), targets)
    found = choice_figures(samples, rows, ALL_GOOD)
    assert found["nlvr2/acc"] == 0.5
    assert found["nlvr2/acc_commonest"] == 0.75
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert found["loss/nlvr2"] == pytest.approx((right + wrong) / 2, rel=1e-6)
    assert choice_results(samples, rows, ALL_GOOD)[:2] == [("dev-0-0-1", "True"), ("dev-1-0-1", "False")]


def test_classes_have_top_1_and_top_5_and_a_tie_is_not_a_hit(tmp_path: Path) -> None:
    names = list("abcdefg")
    annotations: list[dict[str, object]] = [{"class": names[n], "label": n} for n in (0, 1, 6, 0)]
    samples = opened(tmp_path, "classify", annotations, names)
    logits = torch.stack(
        [
            torch.tensor([7.0, 6, 5, 4, 3, 2, 1]),  # first
            torch.tensor([7.0, 6, 5, 4, 3, 2, 1]),  # second
            torch.tensor([7.0, 6, 5, 4, 3, 2, 1]),  # seventh
            torch.zeros(7),  # as likely as the six others
        ]
    )
    rows = choice_rows("classify", logits, torch.tensor([0, 1, 6, 0]))
    found = choice_figures(samples, rows, ALL_GOOD)
    assert (found["classify/top1"], found["classify/top5"], found["classify/acc_commonest"]) == (0.25, 0.5, 0.5)
    assert "classify/top5" not in choice_names("classify", 5)
    assert choice_results(samples, rows, ALL_GOOD)[1] == ("001", "a")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("task", ["vqa", "nlvr2", "classify"])
def test_logits_that_are_not_finite_choose_no_label(task: Task, value: float) -> None:
    logits, labels = likes(0, 1, 2), torch.tensor([0, 1, 1])
    logits[1, 2] = value
    rows = choice_rows(task, logits, likes(0, 1, 1) if task == "vqa" else labels)
    assert rows[1].isnan().all() and rows[[0, 2]].isfinite().all() and rows[[0, 2], 0].tolist() == [0, 2]
