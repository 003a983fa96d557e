"""Networks and batches of the benchmarks of a step: one batch of random samples for all competitors.

A batch has the proportions and lengths of the recipes: equal numbers of images, pairs and texts, texts of 512 tokens,
captions of about 20 padded to 64, as in Microsoft's finetuning code. Captions of CC12M, half of BEiT-3's pairs, have 20
words, those of CC3M 10 (arXiv 2102.08981), of COCO and Visual Genome fewer. Masks and codes are made beforehand, so
loader and tokenizer are not measured.

Shapes: I images, P pairs, T texts; V image tokens, C caption tokens, L text tokens.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from model.config import KEEP_EVERYTHING, MultiwayConfig
from model.flops import StepSize, training_flops
from model.kernels.block_masks import block_image_masks
from model.kernels.text_masks import mask_texts
from model.masked_data_model import MaskedTargets
from model.multiway import MultiwayInputs
from model.objective import num_masked
from pretrain.config.pretraining import PretrainConfig
from pretrain.formats.beit3 import decoupled
from pretrain.recipes import RECIPES
from tests.support.launch import ROOT

FIRST_WORD = 4
"""First id that is not special."""
CAPTION_LENGTHS = (8, 32)
"""Shortest and longest caption in tokens, including <s> and </s>."""


@dataclass(frozen=True)
class Case:
    """A network and the samples of a step."""

    name: str
    config: PretrainConfig
    has_peer: bool
    """False for shared attention or vision-language experts, which torchscale lacks."""
    is_resident: bool = True
    """Whether all competitors fit into memory at once and take turns; else they are measured one after the other."""

    @property
    def model(self) -> MultiwayConfig:
        return self.config.model

    @property
    def size(self) -> StepSize:
        """Size of a step, as model/flops.py counts its work."""
        config = self.config
        texts = (config.data.text_length,) * config.texts_per_step
        return config.step_size(config.images_per_step, caption_lengths(config.pairs_per_step), texts)

    @property
    def num_tokens(self) -> int:
        return self.size.num_tokens(self.model)

    @property
    def flops(self) -> int:
        return training_flops(self.model, self.size)


def caption_lengths(num_pairs: int) -> tuple[int, ...]:
    """Return lengths spread evenly from the shortest to the longest."""
    shortest, longest = CAPTION_LENGTHS
    return tuple(shortest + (longest - shortest) * (2 * i + 1) // (2 * num_pairs) for i in range(num_pairs))


def make_case(
    name: str,
    num_samples: int,
    *,
    recipe: str,
    is_decoupled: bool = True,
    is_resident: bool = True,
    depth: int | None = None,
    vocab_size: int | None = None,
    on_gpu: bool = False,
) -> Case:
    """Return a recipe with num_samples of each kind, without recomputation and stochastic depth."""
    config: PretrainConfig = RECIPES[recipe]()
    model = decoupled(config.model) if is_decoupled else config.model
    model = replace(
        model,
        depth=depth or model.depth,
        vocab_size=vocab_size or model.vocab_size,
        drop_path_rate=0.0,
    )
    config = replace(
        config,
        model=model,
        activation_checkpointing=KEEP_EVERYTHING,
        images_per_step=num_samples,
        pairs_per_step=num_samples,
        texts_per_step=num_samples,
        precision="bfloat16" if on_gpu else "float32",
        deepspeed_config=ROOT / "ds_configs" / Path("zero3.json" if on_gpu else "zero3_cpu.json"),
        # the full rate without warmup would make random weights diverge
        optimizer=replace(config.optimizer, peak_lr=1e-5, min_lr=1e-5),
    )
    return Case(name, config, has_peer=is_decoupled and model.num_vl_layers == 0, is_resident=is_resident)


def dry_case(on_gpu: bool) -> Case:
    """Return a case that takes no time, to see whether everything runs."""
    case = make_case("dry", 1, recipe="beit3_base", depth=1, vocab_size=500, on_gpu=on_gpu)
    model = replace(case.model, dim=64, ffn_dim=128, num_heads=2, num_visual_tokens=100)
    return replace(case, config=replace(case.config, model=model))


@dataclass(frozen=True, eq=False)
class Batch:
    """The samples of a step."""

    inputs: MultiwayInputs
    targets: MaskedTargets

    def with_rows_for_padding(self) -> "Batch":
        """Return the same samples, as if captions had the maximum length."""
        padding = self.inputs.caption_padding
        lengths = (padding.shape[1],) * len(padding)
        return replace(
            self, inputs=replace(self.inputs, caption_padding=torch.zeros_like(padding), caption_lengths=lengths)
        )

    def parts(self, num_parts: int) -> list["Batch"]:
        """Return the same samples as `num_parts` micro-steps, each with its part of every kind."""
        inputs, targets = self.inputs, self.targets
        num_pairs = len(inputs.caption_ids)
        num_images = len(inputs.images) - num_pairs

        def of_images(tensor: Tensor) -> list[Tensor]:
            images, pairs = tensor.split([num_images, num_pairs])
            both = zip(images.chunk(num_parts), pairs.chunk(num_parts), strict=True)
            return [torch.cat(part) for part in both]

        fields = zip(
            of_images(inputs.images),
            of_images(inputs.image_mask),
            inputs.caption_ids.chunk(num_parts),
            inputs.caption_padding.chunk(num_parts),
            inputs.text_ids.chunk(num_parts),
            inputs.text_padding.chunk(num_parts),
            [False] * num_parts,
            chunks(inputs.caption_lengths, num_parts),
            chunks(inputs.text_lengths, num_parts),
            strict=True,
        )
        answers = zip(
            of_images(targets.image_positions),
            of_images(targets.visual_token_ids),
            targets.caption_positions.chunk(num_parts),
            targets.caption_labels.chunk(num_parts),
            targets.text_positions.chunk(num_parts),
            targets.text_labels.chunk(num_parts),
            chunks(targets.caption_counts, num_parts),
            chunks(targets.text_counts, num_parts),
            strict=True,
        )
        return [
            Batch(MultiwayInputs(*part), MaskedTargets(*answer)) for part, answer in zip(fields, answers, strict=True)
        ]


def chunks(numbers: tuple[int, ...] | None, num_parts: int) -> list[tuple[int, ...]]:
    """Split numbers into num_parts equal parts; num_parts must divide their count."""
    assert numbers is not None and len(numbers) % num_parts == 0
    size = len(numbers) // num_parts
    return [numbers[part * size : (part + 1) * size] for part in range(num_parts)]


def random_batch(config: PretrainConfig, device: torch.device, seed: int = 0) -> Batch:
    """Return random pixels, words and codes, masked as in the recipe, but without whole images, which cost the same."""
    generator = torch.Generator().manual_seed(seed)
    model, objective, data = config.model, config.objective, config.data
    num_images, num_pairs, num_texts = config.images_per_step, config.pairs_per_step, config.texts_per_step
    sample_ids = torch.arange(num_images + num_pairs + num_texts)
    image_ids, pair_ids, text_ids = sample_ids.split([num_images, num_pairs, num_texts])
    masks = block_image_masks(
        seed, torch.cat([image_ids, pair_ids]), model.grid_size, config.num_masked_patches,
        objective.min_block_patches, "reference",
    )  # fmt: skip
    mask_id, word_ids = model.vocab_size - 1, (FIRST_WORD, model.vocab_size - 1)

    def words(count: int, length: int) -> Tensor:
        return torch.randint(*word_ids, (count, length), generator=generator)

    longest = data.caption_length
    lengths, text_lengths = caption_lengths(num_pairs), (data.text_length,) * num_texts
    caption_padding = torch.arange(longest) >= torch.tensor(lengths)[:, None]
    text_padding = torch.zeros(num_texts, data.text_length, dtype=torch.bool)
    captions = mask_texts(
        seed, pair_ids, words(num_pairs, longest), caption_padding, objective.caption_mask_ratio, mask_id, word_ids,
        "reference",
    )  # fmt: skip
    texts = mask_texts(
        seed, text_ids, words(num_texts, data.text_length), text_padding, objective.text_mask_ratio, mask_id, word_ids,
        "reference",
    )  # fmt: skip
    size = model.image_size
    pixels = torch.randn(num_images + num_pairs, 3, size, size, generator=generator).to(config.dtype)
    codes = torch.randint(model.num_visual_tokens, masks.positions.shape, generator=generator)
    inputs = MultiwayInputs(
        images=pixels.to(device),
        image_mask=masks.mask.to(device),
        caption_ids=captions.ids.to(device),
        caption_padding=caption_padding.to(device),
        text_ids=texts.ids.to(device),
        text_padding=text_padding.to(device),
        caption_lengths=lengths,
        text_lengths=text_lengths,
    )
    targets = MaskedTargets(
        image_positions=masks.positions.to(device),
        visual_token_ids=codes.to(device),
        caption_positions=captions.positions.to(device),
        caption_labels=captions.labels.to(device),
        text_positions=texts.positions.to(device),
        text_labels=texts.labels.to(device),
        caption_counts=num_masked(lengths, objective.caption_mask_ratio),
        text_counts=num_masked(text_lengths, objective.text_mask_ratio),
    )
    return Batch(inputs, targets)
