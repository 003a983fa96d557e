"""Options of the planning commands are checked when they are built, as on the command line."""

import pytest

from pretrain.planning.options import PlanOptions, ScalingOptions
from pretrain.planning.scaling import machine_of


def test_a_number_out_of_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="ranks 0 must be an integer from 1"):
        PlanOptions(ranks=0)
    with pytest.raises(ValueError, match="mfu 0 must be a number in"):
        ScalingOptions(mfu=0)


def test_a_machine_has_the_figures_of_its_options() -> None:
    machine = machine_of(ScalingOptions(mfu=0.5, gpu_gb=141.0, between_gb=6.25))
    assert (machine.mfu, machine.gpu_gb, machine.network.between_gb_per_second) == (0.5, 141.0, 6.25)
