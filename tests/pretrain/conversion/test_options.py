"""Options of pretrain.convert are checked when they are built, as on the command line."""

from pathlib import Path

import pytest

from pretrain.conversion.options import ConvertOptions


def test_a_number_out_of_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size 5000 must be an integer from 1 to 4,096 or None"):
        ConvertOptions(Path("run"), Path("out"), image_size=5000)
