"""Settings of mixup and cutmix."""

import pytest

from pretrain.config.mixing import MixingConfig


def test_it_is_off_by_default_and_without_probability() -> None:
    assert not MixingConfig().is_on
    assert MixingConfig(mixup=0.8).is_on and MixingConfig(cutmix=1).is_on
    assert not MixingConfig(mixup=0.8, cutmix=1, probability=0).is_on


def test_parts_of_a_step_must_hold_whole_pairs() -> None:
    MixingConfig(mixup=0.8).check_batch(24, 4)
    MixingConfig().check_batch(9, 4)
    with pytest.raises(ValueError, match="20 samples per step in 4 parts .* a multiple of 8"):
        MixingConfig(mixup=0.8).check_batch(20, 4)


def test_a_number_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match="cutmix -1 must be a number from 0 to 1,000"):
        MixingConfig(cutmix=-1)
