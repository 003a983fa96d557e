"""Options of the evaluating commands are checked when they are built, as on the command line."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from pretrain.evaluation.options import (
    HELD_OUT_SOURCE,
    USERS,
    EvaluatedKind,
    EvaluateOptions,
    MaskedPatchesOptions,
    MaskedWordsOptions,
)

RUN = Path("run")
IN_A_FOLDER = replace(HELD_OUT_SOURCE, image_root=Path("images"))


def test_a_number_out_of_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="max_pairs 0 must be an integer from 1"):
        MaskedWordsOptions(Path("run"), Path("pairs"), max_pairs=0)
    with pytest.raises(ValueError, match="max_images 0 must be an integer from 1"):
        MaskedPatchesOptions(Path("run"), Path("images"), max_images=0)


@pytest.mark.parametrize(
    ("options", "use", "other", "sentence"),
    [
        (
            EvaluateOptions(RUN, pairs="pairs"),
            "task",
            "contrast",
            "--pairs is not for .* finetuned .*; give --held-out",
        ),
        (
            EvaluateOptions(RUN, parts=("losses",)),
            "task",
            "pretraining",
            "--parts is not for .* finetuned .*; leave it",
        ),
        (EvaluateOptions(RUN, num_words=9), "task", "pretraining", "--num-words is not for a network finetuned"),
        (EvaluateOptions(RUN, num_words=9), "contrast", "pretraining", "--num-words is not for a dual encoder"),
        (EvaluateOptions(RUN, visual_tokenizer=RUN), "contrast", "pretraining", "--visual-tokenizer is not for a dual"),
        (EvaluateOptions(RUN, class_names=RUN), "pretraining", "contrast", "--class-names is not for .* masked data"),
        (EvaluateOptions(RUN, templates=RUN), "pretraining", "contrast", "--templates is not for .* masked data"),
        (EvaluateOptions(RUN, captions_per_image=5), "pretraining", "contrast", "--captions-per-image is not for"),
        (EvaluateOptions(RUN, reading=IN_A_FOLDER), "pretraining", "contrast", "--image-root is not for"),
        (EvaluateOptions(RUN, reading=IN_A_FOLDER), "task", "contrast", "--image-root is not for .*; leave it out"),
        (EvaluateOptions(RUN, held_out="vqa"), "pretraining", "task", "--held-out is not for .*; leave it out"),
        (EvaluateOptions(RUN, num_beams=3), "contrast", "task", "--num-beams is not for a dual encoder"),
    ],
)
def test_an_option_for_another_kind_of_network_is_refused(
    options: EvaluateOptions, use: EvaluatedKind, other: EvaluatedKind, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        options.check_use(use)
    options.check_use(other)


def test_every_option_for_a_kind_of_network_is_one_of_the_command() -> None:
    assert set(USERS) <= {option.name for option in fields(EvaluateOptions)}
