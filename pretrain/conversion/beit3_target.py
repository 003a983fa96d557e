"""Microsoft's format as a target: one file for each role, for torchscale and for their finetuning code."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from model.config import DualHeads, Heads, Use
from model.multiway import MultiwayInputs
from pretrain.checkpoints.weights import model_of
from pretrain.conversion.beit3_lines import python_lines
from pretrain.conversion.source import Source
from pretrain.conversion.target import README_NAME, Target, import_note
from pretrain.conversion.verify import outputs
from pretrain.formats.beit3 import decoupled, decoupled_weights, file_entries
from pretrain.formats.beit3_dual import left_out as left_out_of_dual
from pretrain.formats.beit3_file import load_beit3, save_beit3
from pretrain.formats.beit3_loaders import (
    TASKS,
    Task,
    exact_tasks,
    finetuning_command,
    inputs_of,
    torchscale_arguments,
    why_not_finetuned,
)
from pretrain.formats.beit3_tasks import ROLES
from pretrain.formats.beit3_tasks import left_out as left_out_of_task
from pretrain.formats.role import Role
from pretrain.formats.vocabulary import EXPORTED_NAME

USES_OF: dict[Role, tuple[Use, ...]] = {
    "fusion": ("pair",),
    "dual": ("image", "text"),
    "vision": ("image",),
    "text": ("text",),
}


class Beit3Target(Target):
    """beit3_ROLE.pth, and its card beit3_ROLE.json."""

    name = "beit3"
    role: Role

    def __init__(self, role: Role | None):
        super().__init__(role or "fusion")

    @classmethod
    def fitting(cls, role: Role | None, heads: Heads | None) -> Self:
        if heads is None:
            return cls(role)
        if isinstance(heads, DualHeads):
            if role == "fusion":
                raise ValueError("a dual encoder encodes images and texts apart, never as pairs; use --role dual")
            return cls(role or "dual")
        own = ROLES[heads.TASK]
        if role not in (None, own):
            raise ValueError(f"a network of {heads.TASK} has one role, {own}; leave out --role {role}")
        return cls(own)

    @property
    def weights_name(self) -> str:
        return f"beit3_{self.role}.pth"

    @property
    def card_name(self) -> str:
        return f"beit3_{self.role}.json"

    @property
    def opened_first(self) -> str:
        return self.weights_name

    @property
    def uses(self) -> tuple[Use, ...]:
        return USES_OF[self.role]

    def write(self, source: Source, folder: Path) -> None:
        fingerprint = None if source.vocabulary is None else source.vocabulary.sha256
        save_beit3(source.weights(), source.config, self.role, folder / self.weights_name, fingerprint, source.heads)

    def tensors(self, source: Source, path: Path) -> tuple[dict[str, Tensor], Iterator[tuple[str, Tensor]]]:
        return load_beit3(path), file_entries(source.weights(), source.config, self.role, source.heads)

    def encoder(self, source: Source, path: Path) -> Callable[[MultiwayInputs], list[Tensor]]:
        written = decoupled(source.config)
        heads = DualHeads() if isinstance(source.heads, DualHeads) else source.heads
        model = model_of(written, decoupled_weights(load_beit3(path), written, owner=path, heads=heads), heads)
        return lambda inputs: outputs(model, inputs)

    def card_entries(self, source: Source) -> dict[str, Any]:
        """Return the tasks that the file is exact for, torchscale's arguments, and the command line of each task."""
        config = source.config
        tasks = exact_tasks(config, self.role, source.heads)
        reason, written = why_not_finetuned(config, source.heads), decoupled(config)
        tokenizer, path = None if source.vocabulary is None else Path(EXPORTED_NAME), Path(self.weights_name)
        commands = {} if reason else {task.name: command_of(source, task, path, tokenizer) for task in tasks}
        return {
            "exact_for": [task.name for task in tasks],
            "torchscale": torchscale_arguments(written, has_final_norm(source.heads)),
            "not_finetuned": reason,
            "finetuning": commands,
        }

    def left_out(self, source: Source) -> list[str]:
        if source.heads is None:
            return []
        if isinstance(source.heads, DualHeads):
            return left_out_of_dual(source.config, source.heads)
        return left_out_of_task(source.config, source.heads)

    def loaders(self, source: Source, path: Path, card: dict[str, Any]) -> list[str]:
        """Return lines on programs that load the file, and on the tasks of Microsoft's that its role is wrong for."""
        readme = path.with_name(README_NAME)
        arguments = path.with_suffix(".json")
        lines = [f"torchscale loads it{import_note()}: BEiT3 with the arguments in {arguments}; {readme} has the lines"]
        tasks = exact_tasks(source.config, self.role, source.heads)
        exact = ", ".join(task.name for task in tasks)
        if card["not_finetuned"]:
            lines.append(f"Microsoft's finetuning code cannot load it: {card['not_finetuned']}")
        else:
            tokenizer = None if card["text_tokenizer"] is None else path.with_name(EXPORTED_NAME)
            command = command_of(source, tasks[0], path, tokenizer)
            lines.append(f"Microsoft's finetuning code loads it, here for {tasks[0].name}: {command}")
            lines.append(f"{readme} has the command lines of {exact}")
        wrong = [task for task in TASKS if task not in tasks] if source.heads is None else []
        if wrong:
            right_inputs, wrong_inputs = inputs_of(self.role)
            names = ", ".join(task.name for task in wrong)
            lines.append(
                f"role {self.role} is exact for {right_inputs} ({exact}), wrong for {wrong_inputs} ({names}): for "
                f"those, --role {wrong[0].role}"
            )
        return lines

    def readme_code(self, card: dict[str, Any]) -> str:
        return python_lines(card)

    def readme_notes(self, card: dict[str, Any]) -> list[str]:
        return [f"Role {self.role}: exact for Microsoft's tasks {', '.join(card['exact_for'])}.\n"]

    def readme_commands(self, card: dict[str, Any]) -> list[str]:
        if card["not_finetuned"]:
            return [f"Microsoft's finetuning code cannot load it: {card['not_finetuned']}.\n"]
        return [
            "With Microsoft's finetuning code (DATA and RESULTS are folders of yours, TOKENIZER is the file of",
            "your text tokenizer; then the options of its guide for the task):\n",
            "```bash\n" + "\n".join(card["finetuning"].values()) + "\n```\n",
        ]


def command_of(source: Source, task: Task, path: Path, text_tokenizer: Path | None) -> str:
    """Return the command line of Microsoft's code for a written file: it evaluates a network of a task, and finetunes
    any other one."""
    is_finetuned = source.heads is not None and not isinstance(source.heads, DualHeads)
    return finetuning_command(task, decoupled(source.config), path, text_tokenizer, is_finetuned)


def has_final_norm(heads: Heads | None) -> bool:
    """Return whether the encoder of a network with these heads ends with a norm."""
    return heads is None or isinstance(heads, DualHeads) or heads.FINAL_NORM
