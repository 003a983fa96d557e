"""Settings of finetuning runs. CPU, milliseconds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.config import CaptionHead, ClassHead, Nlvr2Head, VqaHead
from pretrain.config.finetune import FinetuneConfig
from pretrain.config.mixing import MixingConfig
from pretrain.config.run_config import config_from_json, config_to_json
from pretrain.recipes import FINETUNE_RECIPES


def config_of(task: str) -> FinetuneConfig:
    return FINETUNE_RECIPES[f"{task}_laptop"]()


def test_the_head_the_kind_of_shards_and_the_images_follow_from_the_task() -> None:
    heads = {"vqa": VqaHead(10), "nlvr2": Nlvr2Head(), "caption": CaptionHead(), "classify": ClassHead(10)}
    kinds = {"vqa": "vqa", "nlvr2": "nlvr2", "caption": "caption", "classify": "label"}
    for task, head in heads.items():
        config = config_of(task)
        assert config.heads == head
        assert config.kinds == [(kinds[task], config.data.shards, 64)]
        assert config.images_per_sample == (2 if task == "nlvr2" else 1)
        assert config.has_text == (task != "classify")
        assert config.samples_per_step.total == 64 and str(config.samples_per_step) == "64 task samples"


@pytest.mark.parametrize(
    ("task", "changes", "sentence"),
    [
        ("vqa", {"num_classes": None}, "task vqa needs num_classes, the number of answers; give it"),
        ("classify", {"num_classes": None}, "task classify needs num_classes, the number of classes; give it"),
        ("nlvr2", {"num_classes": 2}, "num_classes is for vqa and classify, not for task nlvr2; leave it out"),
        ("nlvr2", {"label_smoothing": 0.1}, "label_smoothing is for caption and classify, not for task nlvr2; leave"),
        ("vqa", {"mixing": MixingConfig(mixup=0.8)}, "mixing is for classify, not for task vqa; leave it out"),
        ("classify", {"drop_worst_share": 0.2}, "drop_worst_share is for caption, not for task classify"),
        ("classify", {"drop_worst_after": 9}, "drop_worst_after is for caption, not for task classify"),
        ("vqa", {"mask_ratio": 0.5}, "mask_ratio is for caption, not for task vqa"),
        ("caption", {"head_lr_factor": 20.0}, "head_lr_factor is for vqa and nlvr2 and classify, not for task"),
        ("vqa", {"layer_decay": 0.0}, "layer_decay 0.0 must be"),
        ("vqa", {"task_samples_per_step": 0}, "task_samples_per_step 0 must be"),
        ("caption", {"mask_ratio": 1.0}, "mask_ratio 1.0 must be"),
    ],
)
def test_settings_that_no_run_can_work_with_are_refused(task: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(config_of(task), **changes)


@pytest.mark.parametrize(
    ("task", "changes", "sentence"),
    [
        ("caption", {"answers": Path("answers.txt")}, "data.answers is for task vqa, not for caption; leave it out"),
        ("vqa", {"classes": Path("classes.txt")}, "data.classes is for task classify, not for vqa; leave it out"),
        ("nlvr2", {"text_tokenizer": None}, "data.text_tokenizer is needed for the texts of task nlvr2; give a"),
        ("vqa", {"text_length": 129}, "model.max_text_length 128 is below data.text_length 129; lower the latter"),
    ],
)
def test_data_of_another_task_or_without_texts_are_refused(task: str, changes: dict[str, Any], sentence: str) -> None:
    config = config_of(task)
    with pytest.raises(ValueError, match=sentence):
        replace(config, data=replace(config.data, **changes))


def test_classification_needs_no_words() -> None:
    config = config_of("classify")
    assert config.data.text_tokenizer is None and config.data.text_length > 0
    assert replace(config, data=replace(config.data, text_length=500)).heads == ClassHead(10)


def test_a_batch_that_leaves_an_image_without_a_partner_is_refused_before_it_is_read() -> None:
    config = replace(config_of("classify"), mixing=MixingConfig(cutmix=1.0), task_samples_per_step=12)
    assert config.micro_batch(2).task_samples == 6
    with pytest.raises(ValueError, match="12 samples per step in 4 parts .* leave images without a partner"):
        config.micro_batch(4)
    with pytest.raises(ValueError, match="task_samples_per_step 12 must be a multiple of 8 ranks"):
        config.micro_batch(8)


def test_a_run_is_evaluated_on_the_held_out_shards_of_its_data() -> None:
    config = config_of("vqa")
    assert config.is_evaluated
    assert not replace(config, data=replace(config.data, held_out=None)).is_evaluated
    assert not replace(config, evaluation=replace(config.evaluation, every_steps=0)).is_evaluated
    with pytest.raises(ValueError, match="evaluation.best needs a checkpoint at every evaluation"):
        replace(config, evaluation=replace(config.evaluation, best="vqa/acc", every_steps=50))


def test_passwords_in_urls_of_shards_are_not_saved() -> None:
    config = config_of("vqa")
    secret = "https://user:secret@host/shards"
    hidden = replace(config, data=replace(config.data, shards=(secret,), held_out=secret))
    text = config_to_json(hidden)
    assert "secret" not in text and "host/shards" in text
    assert config_from_json(FinetuneConfig, config_to_json(config)) == config


def test_random_weights_are_warned_of() -> None:
    (warning,) = replace(config_of("vqa"), initial_weights=None).warnings()
    assert "starts from random weights" in warning and "--initial-weights SOURCE" in warning
