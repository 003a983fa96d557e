"""The kinds of runs that can be planned."""

from typing import Any

from pretrain.config.pretraining import PretrainConfig
from pretrain.planning.planned_kind import PlannedKind
from pretrain.planning.pretraining_kind import PlannedPretraining

PlannedConfig = PretrainConfig
KINDS: dict[type[PlannedConfig], PlannedKind[Any]] = {PretrainConfig: PlannedPretraining()}


def kind_of(config: PlannedConfig) -> PlannedKind[Any]:
    """Return the kind of run of a config."""
    return KINDS[type(config)]
