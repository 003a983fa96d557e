"""The part of a run's time that its evaluation takes, by counted operations.

An evaluation is forwards alone, a third of what training does with a sample, and its ranks work in rounds: a rank
without a chunk in the last one waits for the others, so that on more ranks than chunks the share grows with them.
Neither side counts the visual tokenizer, and both take captions and texts of their greatest length.
"""

from collections.abc import Iterator
from dataclasses import replace

from model.flops import forward_flops, training_flops
from model.objective import num_masked
from pretrain.config.evaluation import EvaluationConfig
from pretrain.config.pretraining import PretrainConfig

TOKENS_PER_WORD = 2
"""Assumed number of tokens of a hidden caption word."""
EVERYTHING = EvaluationConfig(images="images", pairs="pairs", texts="texts", labelled="labelled")


def evaluation_share(config: PretrainConfig, num_ranks: int = 1) -> float:
    """Return the operations of evaluations as a part of those of training steps, 0 if the run has no evaluation."""
    settings = config.evaluation
    if not settings.is_on:
        return 0.0
    rounds = sum(
        -(-num_samples // (settings.chunk_size * num_ranks)) * flops * min(settings.chunk_size, num_samples)
        for num_samples, flops in forwards(config)
    )
    num_kinds = 2 if config.optimizer.ema_decay else 1  # of weights: as trained, and their moving average
    training = settings.every_steps * training_flops(config.model, config.largest_step)
    return num_kinds * rounds * num_ranks / training


def evaluation_note(config: PretrainConfig, num_ranks: int) -> str:
    """Return a sentence on the cost of the evaluation, or of one with all data and the recipe's numbers."""
    settings, is_assumed = config.evaluation, not config.evaluation.has_data
    if settings.every_steps == 0:
        return "evaluation: none (evaluation.every_steps 0)"
    if is_assumed:
        names = ("images", "pairs", "texts", "labelled")
        given = {name: getattr(EVERYTHING, name) for name in names}
        config = replace(config, evaluation=replace(settings, **given, best=None))
    share = evaluation_share(config, num_ranks)
    said = f"{share:.2%} of the operations of {settings.every_steps} steps on {num_ranks} ranks"
    if is_assumed:
        return f"evaluation, counted: no held-out data is set; with all kinds and labelled images it would take {said}."
    return f"evaluation, counted: {said}."


def forwards(config: PretrainConfig) -> Iterator[tuple[int, float]]:
    """Yield the number of samples, and the operations of a forward per sample, of each part of an evaluation."""
    settings, data, objective = config.evaluation, config.data, config.objective
    is_given = {"image": settings.images, "pair": settings.pairs, "text": settings.texts}
    if "losses" in settings.parts and any(is_given.values()):
        patches = config.num_masked_patches
        (caption_words,) = num_masked([data.caption_length], objective.caption_mask_ratio)
        (text_words,) = num_masked([data.text_length], objective.text_mask_ratio)
        image = forward_flops(config.model, "image", 0) + head_flops(config, patches, 0)
        pair = forward_flops(config.model, "pair", data.caption_length) + head_flops(config, patches, caption_words)
        text = forward_flops(config.model, "text", data.text_length) + head_flops(config, 0, text_words)
        costs = {"image": image, "pair": pair, "text": text}
        yield settings.num_samples, sum(cost for kind, cost in costs.items() if is_given[kind])
    if "words" in settings.parts and settings.pairs:
        guess = forward_flops(config.model, "pair", data.caption_length) + head_flops(config, 0, TOKENS_PER_WORD)
        yield settings.num_words, 2 * guess  # with the right image and with a wrong one
    if {"knn", "probe"} & set(settings.parts) and settings.labelled:
        yield settings.num_labelled, forward_flops(config.model, "image", 0)


def head_flops(config: PretrainConfig, patches: int, words: int) -> int:
    """Return the operations of the heads on hidden patches and words."""
    model = config.model
    return 2 * model.dim * (patches * model.num_visual_tokens + words * model.vocab_size)
