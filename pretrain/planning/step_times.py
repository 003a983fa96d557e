"""Predicted time of a recipe's step: what its network, its ZeRO stage and its ranks have to do, at assumed speeds."""

from dataclasses import dataclass, replace
from typing import Any

from pretrain.config.run_config import EncoderRunConfig
from pretrain.engine.memory_config import zero_settings
from pretrain.planning.assumptions import Assumptions, Gpu
from pretrain.planning.kinds import kind_of
from pretrain.planning.memory import count_pieces, micro_batch, planned_kernels
from pretrain.planning.micro_step_work import micro_step_work
from pretrain.planning.roofline import PhaseSharding, ShardingWork, StepTime, predict_step
from pretrain.planning.stages import GPUS_PER_NODE, HPZ, Setting, collectives_of_loss, fitting_settings, way_of
from pretrain.planning.traffic import Network, step_collectives


@dataclass(frozen=True)
class AssumedMachine:
    """A GPU, and the assumptions on how a step uses it and its network."""

    gpu: Gpu
    assumed: Assumptions

    @property
    def room_gb(self) -> float:
        """Memory of a GPU that a plan may fill, in 1e9 bytes."""
        return max(0.0, self.gpu.memory_gb - self.assumed.reserve_gb)

    @property
    def network(self) -> Network:
        assumed = self.assumed
        return Network(GPUS_PER_NODE, self.figure("within_gb"), assumed.between_gb, assumed.hop_us)

    def figure(self, name: str) -> float:
        """Return an assumption by its name, or the GPU's own figure if none is assumed."""
        value: float | None = getattr(self.assumed, name)
        return self.gpu.link_gb if value is None else value


@dataclass(frozen=True)
class PredictedSetting:
    """A setting that fits a GPU, and its predicted time."""

    setting: Setting
    time: StepTime


def step_time(
    config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int, machine: AssumedMachine
) -> StepTime:
    """Return the predicted time of a step of the recipe's micro-steps, with the longest captions and texts."""
    work = micro_step_work(
        kind_of(config).of_the_forward(config), micro_batch(config, num_ranks), planned_kernels(config)
    )
    sharding = sharding_work(config, memory_config, num_ranks, machine.network)
    flops = kind_of(config).step_flops(config) / num_ranks
    gpu = machine.gpu.in_precision(config.precision)
    return predict_step(work, sharding, config.gradient_accumulation_steps, flops, gpu, machine.assumed)


def sharding_work(
    config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int, network: Network
) -> ShardingWork:
    """Return the work that a ZeRO stage adds to the step of a rank."""
    kind, pieces, zero = kind_of(config), count_pieces(config, 0), zero_settings(memory_config)
    found = step_collectives(memory_config, pieces.total, config.dtype.itemsize, num_ranks)
    forward, backward, last, after = (
        sum(map(network.seconds, part))
        for part in (found.forward, found.backward, found.last_backward, found.after_step)
    )
    reduction = (*found.backward, *found.last_backward)[-1]
    tail = network.seconds(reduction) / reduction.num_pieces
    num_tensors = pieces.num_tensors
    gathering, regathering, slices = 0, 0, 0
    if zero.stage == 3 and num_ranks > 1:
        regather = found.backward[0]
        gathering, slices = num_tensors, num_ranks
        regathering = round(num_tensors * regather.num_bytes / reduction.num_bytes)
    group = found.backward[0].num_ranks if regathering else 0
    # stage 1 fills its buckets in the last micro-step; before it torch adds gradients up in place
    early = PhaseSharding(backward, regathering, group, 0 if zero.stage == 1 else num_tensors, slices)
    return ShardingWork(
        num_parameters=pieces.total,
        stage=int(zero.stage),
        num_ranks=num_ranks,
        # stage 3 cuts every tensor for all ranks, stages 1 and 2 cut all tensors in a row
        num_updated=num_tensors if zero.stage == 3 else -(-num_tensors // num_ranks),
        forward=PhaseSharding(forward, gathering, slices),
        backward=early,
        last_backward=replace(early, communication=backward + last - tail, num_reduced=num_tensors),
        tail_seconds=tail,
        after_seconds=after,
        loss_seconds=sum(map(network.seconds, collectives_of_loss(config, num_ranks))),
        num_forwards_again=kind.num_forwards_again(config),
        waits_in_forward=way_of(memory_config) == HPZ,
        keeps_average=config.optimizer.ema_decay > 0,
    )


def predicted_settings(
    config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int, machine: AssumedMachine
) -> list[PredictedSetting]:
    """Return the predicted times of the settings that fit, the shortest first."""
    found = []
    for setting in fitting_settings(config, memory_config, num_ranks, machine.room_gb):
        in_micro_steps = replace(config, gradient_accumulation_steps=setting.micro_steps)
        time = step_time(in_micro_steps, setting.memory_config, num_ranks, machine)
        found.append(PredictedSetting(setting, time))
    return sorted(found, key=lambda setting: setting.time.seconds)
