"""The kinds of runs that can be planned."""

from typing import Any

from pretrain.config.contrast import ContrastConfig
from pretrain.config.finetune import FinetuneConfig
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.run_config import EncoderRunConfig
from pretrain.planning.contrast_kind import PlannedContrast
from pretrain.planning.finetuning_kind import PlannedFinetuning
from pretrain.planning.planned_kind import PlannedKind
from pretrain.planning.pretraining_kind import PlannedPretraining

KINDS: dict[type[EncoderRunConfig], PlannedKind[Any]] = {
    PretrainConfig: PlannedPretraining(),
    ContrastConfig: PlannedContrast(),
    FinetuneConfig: PlannedFinetuning(),
}


def kind_of(config: EncoderRunConfig) -> PlannedKind[Any]:
    """Return the kind of run of a config."""
    return KINDS[type(config)]
