"""All checks of the doctor, in the order of the report."""

from collections.abc import Iterator

from data_pipeline.settings.command_line import num_cores
from model.config import KernelChoice
from pretrain.config.run_config import EncoderRunConfig, RunConfig
from pretrain.diagnosis import kernels, machine, ranks, recipe_data, software, storage
from pretrain.diagnosis.demands import Demands, demands_of, num_gpus
from pretrain.diagnosis.findings import Finding, from_error
from pretrain.diagnosis.isolation import Check, check_of, run_checks
from pretrain.diagnosis.options import DoctorOptions

KERNELS_ON_GPU: tuple[tuple[KernelChoice, ...], ...] = (("reference",), ("triton",), ("apex",), ("compile",))
"""Kernels by the process that runs them: one that fails on a GPU leaves it unusable for the others of its process."""
KERNELS_ON_CPU: tuple[tuple[KernelChoice, ...], ...] = (("reference", "triton", "apex"), ("compile",))
COLLECTIVE_SHARE = 0.8
"""Share of a check's time after which its two ranks count as hanging."""


def diagnose(recipe: str, config: RunConfig | None, options: DoctorOptions) -> Iterator[Finding]:
    """Yield the findings of all checks, as they become known. recipe: its name, empty if there is none."""
    at_once = min(4, max(2, num_cores()))
    demands = Demands()
    for found in run_checks(software_checks(recipe, config, options), options.deadline, at_once):
        if isinstance(found, Demands):
            demands = found
        else:
            yield found
    for found in run_checks(machine_checks(config, demands, options), options.deadline, at_once):
        assert isinstance(found, Finding)
        yield found
    if config is None:
        yield Finding("ok", "recipe", "none was given: its data, tokenizers and demands were not checked")


def software_checks(recipe: str, config: RunConfig | None, options: DoctorOptions) -> list[Check]:
    """Return the checks of installed software, and the one that computes the demands of the recipe."""
    needs_gpu = config is not None and config.precision == "bfloat16"
    found = [
        check_of("Python", software.python),
        check_of("packages", software.packages),
        check_of("torch", software.torch_and_what_it_uses, needs_gpu),
        check_of("DeepSpeed", software.deepspeed_and_ops),
        check_of("Slurm", machine.slurm),
    ]
    return [*found, *([] if config is None else [check_of("recipe", demands_found, recipe, config, options.ranks)])]


def machine_checks(config: RunConfig | None, demands: Demands, options: DoctorOptions) -> list[Check]:
    """Return the checks of the machine, compared with the demands, of ranks and kernels, and of the recipe's data."""
    seconds = COLLECTIVE_SHARE * options.deadline
    found = [
        check_of("cores", machine.cores, demands),
        check_of("memory", machine.memory, demands),
        check_of("shared memory", machine.shared_memory, demands),
        check_of("open files", machine.open_files, demands),
        check_of("processes", machine.processes, demands),
        check_of("locked memory", machine.locked_memory),
        check_of("address space", machine.address_space),
        check_of("host name", machine.host_name),
        check_of("main rank's port", ranks.main_port),
    ]
    if config is not None:
        found += [
            check_of("disk space", storage.disk_space, config.run_dir, demands),
            check_of("shard cache", storage.cache_space, config),
            check_of("shard read speed", storage.read_speed, config),
            check_of("recipe's data", recipe_data.recipe_data, config, demands.ranks),
        ]
    found.append(check_of("two ranks, gloo", ranks.collective, "gloo", seconds))
    if num_gpus() > 1:
        found.append(check_of("two ranks, nccl", ranks.collective, "nccl", seconds))
    chosen = config.kernels if isinstance(config, EncoderRunConfig) else "auto"
    groups = KERNELS_ON_GPU if num_gpus() else KERNELS_ON_CPU
    return [*found, *(check_of(f"kernels {group[0]}", kernels.micro_steps, group, chosen) for group in groups)]


def demands_found(recipe: str, config: RunConfig, num_ranks: int | None) -> Iterator[Finding | Demands]:
    """Yield the demands of the recipe, and a finding that states them."""
    try:
        demands = demands_of(config, recipe, num_ranks)
    except ValueError as error:
        yield from_error("recipe", error)
        return
    size = machine.gb(demands.checkpoint)
    text = f"{recipe} on {demands.ranks} ranks, {demands.ranks_here} per machine; a checkpoint takes {size}"
    yield demands
    yield Finding("ok", "recipe", text)
