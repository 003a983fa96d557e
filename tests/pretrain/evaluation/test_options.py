"""Options of the evaluating commands are checked when they are built, as on the command line."""

from pathlib import Path

import pytest

from pretrain.evaluation.options import MaskedPatchesOptions, MaskedWordsOptions


def test_a_number_out_of_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="max_pairs 0 must be an integer from 1"):
        MaskedWordsOptions(Path("run"), Path("pairs"), max_pairs=0)
    with pytest.raises(ValueError, match="max_images 0 must be an integer from 1"):
        MaskedPatchesOptions(Path("run"), Path("images"), max_images=0)
