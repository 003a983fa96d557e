"""The kinds of runs that train an encoder: a new kind is listed here, so that every command finds its checkpoints."""

from pretrain.config.contrast import ContrastConfig
from pretrain.config.finetune import FinetuneConfig
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.run_config import EncoderRunConfig

ENCODER_RUNS: tuple[type[EncoderRunConfig], ...] = (PretrainConfig, ContrastConfig, FinetuneConfig)
