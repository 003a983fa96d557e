"""Options of the evaluating commands are checked when they are built, as on the command line."""

from pathlib import Path

import pytest

from pretrain.evaluation.options import EvaluateOptions, MaskedPatchesOptions, MaskedWordsOptions

RUN = Path("run")


def test_a_number_out_of_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="max_pairs 0 must be an integer from 1"):
        MaskedWordsOptions(Path("run"), Path("pairs"), max_pairs=0)
    with pytest.raises(ValueError, match="max_images 0 must be an integer from 1"):
        MaskedPatchesOptions(Path("run"), Path("images"), max_images=0)


@pytest.mark.parametrize(
    ("options", "is_task", "sentence"),
    [
        (EvaluateOptions(RUN, pairs="pairs"), True, "--pairs is not for a network finetuned .*; give --held-out"),
        (EvaluateOptions(RUN, parts=("losses",)), True, "--parts is not for a network finetuned .*; leave it out"),
        (EvaluateOptions(RUN, num_words=9), True, "--num-words is not for a network finetuned"),
        (EvaluateOptions(RUN, held_out="vqa"), False, "--held-out is not for .* not finetuned .*; leave it out"),
    ],
)
def test_an_option_for_another_kind_of_network_is_refused(
    options: EvaluateOptions, is_task: bool, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        options.check_use(is_task)
    options.check_use(not is_task)
