"""The part of a run's time that its evaluation takes, by counted operations.

An evaluation is forwards alone, a third of what training does with a sample, and its ranks work in rounds: a rank
without a chunk in the last one waits for the others, so that on more ranks than chunks the share grows with them.
Neither side counts the visual tokenizer, and both take captions and texts of their greatest length.
"""

from pretrain.config.run_config import EncoderRunConfig
from pretrain.planning.kinds import kind_of

WORDS = {"labelled": "labelled images", "held_out": "held-out samples"}
"""Held-out data in words, by the names of settings that are not words themselves."""


def evaluation_share(config: EncoderRunConfig, num_ranks: int = 1) -> float:
    """Return the operations of evaluations as a part of those of training steps, 0 if the run has no evaluation."""
    settings = config.evaluation
    if not config.is_evaluated:
        return 0.0
    kind = kind_of(config)
    rounds = sum(
        -(-num_samples // (settings.chunk_size * num_ranks)) * flops * min(settings.chunk_size, num_samples)
        for num_samples, flops in kind.evaluation_forwards(config)
    )
    num_kinds = 2 if config.optimizer.ema_decay else 1  # of weights: as trained, and their moving average
    training = settings.every_steps * kind.step_flops(config)
    return num_kinds * rounds * num_ranks / training


def evaluation_note(config: EncoderRunConfig, num_ranks: int) -> str:
    """Return a sentence on the cost of the evaluation, or of one with all data and the recipe's numbers."""
    settings, is_assumed = config.evaluation, not config.is_evaluated
    if settings.every_steps == 0:
        return "evaluation: none (evaluation.every_steps 0)"
    if is_assumed:
        config = kind_of(config).with_held_out_data(config)
    share = evaluation_share(config, num_ranks)
    said = f"{share:.2%} of the operations of {settings.every_steps} steps on {num_ranks} ranks"
    if is_assumed:
        *others, last = [WORDS.get(name, name) for name in kind_of(config).evaluated_data]
        data = f"{', '.join(others)} and {last}" if others else last
        return f"evaluation, counted: no held-out data is set; with {data} it would take {said}."
    return f"evaluation, counted: {said}."
