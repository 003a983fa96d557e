"""Every kind of run that trains an encoder can be planned. No time at all."""

from pretrain.config.kinds import ENCODER_RUNS
from pretrain.planning.kinds import KINDS, kind_of
from pretrain.recipes import RECIPES
from tests.support.launch import ROOT


def test_every_kind_of_run_that_trains_an_encoder_is_planned() -> None:
    assert set(KINDS) == set(ENCODER_RUNS)


def test_a_kind_names_the_command_that_trains_it() -> None:
    for kind in KINDS.values():
        assert ROOT.joinpath(*kind.module.split(".")).with_suffix(".py").is_file()
    assert kind_of(RECIPES["demo"]()).module == "pretrain.train"
