"""python -m tests.benchmarks.study_mask_rows NAME=RUN,PAIRS ...: why can a network not use whole images?

Pretrained runs predict hidden words of held-out captions while three things are measured: the norm of each kind of row
in the residual stream, the attention of hidden words to each kind, and the number of words predicted correctly if no
row may attend to rows of a kind. It needs matplotlib. Ends with a picture and a line of figures.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import tyro
from torch import Tensor

from data_pipeline.texts.tokenizer import PAD_ID, UNK_ID, TextTokenizer
from model.layout import PackedLayout
from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayBlock, MultiwayInputs
from model.residual import Branch, add_branch
from pretrain.checkpoints.weights import find_checkpoint, load_model
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.held_out import read_held_out, training_masks
from pretrain.evaluation.masked_words import masked_words
from pretrain.jobs.visual_tokens import network_view
from tests.benchmarks.packages import require_packages
from tests.benchmarks.study_whole_images import PACKAGES

KINDS = ("class token", "patches", "mask tokens", "words", "hidden words")
"""Kinds of rows; the words include the start and end tokens."""
CLASS, PATCHES, MASKS, WORDS, HIDDEN = range(len(KINDS))
CONDITIONS = {
    "masked": (True, ()),
    "whole": (False, ()),
    "masks_unseen": (True, (MASKS,)),
    "patches_unseen": (True, (PATCHES,)),
}
"""Conditions by name: whether patches are hidden as in training, and the kinds of rows that no row may attend to."""


@dataclass(frozen=True)
class StudyOptions:
    """Rows, attention and words of pretrained runs."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """NAME=RUN,PAIRS: a run, and held-out pairs."""
    max_pairs: int = 300
    """Held-out pairs to evaluate for each run."""
    picture: Path = Path("mask_rows.png")
    """File to write the picture to."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise SystemExit("error: no run is given; give NAME=RUN,PAIRS")


@dataclass(frozen=True, eq=False)
class VisibleInputs(MultiwayInputs):
    """A pair with rows that no row may attend to."""

    unseen: Tensor | None = None
    """(V + C,) bool, True = no row may attend to this one."""

    def layout(self) -> PackedLayout:
        layout = super().layout()
        assert self.unseen is not None
        return replace(layout, pair_mask=(~self.unseen).repeat(len(self.unseen), 1))


@dataclass(frozen=True, eq=False)
class Findings:
    """Measurements of a run of L blocks."""

    norms: Tensor
    """(L + 1, kinds): the mean norm of a row before each block and after the last."""
    attention: Tensor
    """(L, kinds): the share of a hidden word's attention that rows of the kind get, with masks as in training."""
    share: Tensor
    """(kinds,): the share of rows that are of the kind, which uniform attention would give."""
    right: dict[str, float]
    """Guesses of words by condition."""


def main() -> None:
    options = tyro.cli(StudyOptions)
    require_packages(PACKAGES)
    torch.set_num_threads(1)
    findings = {}
    for entry in options.runs:
        name, _, paths = entry.partition("=")
        run, pairs = map(Path, paths.split(","))
        findings[name] = study(run, pairs, options.max_pairs)
        print(table(name, findings[name]), flush=True)
    draw(findings, options.picture)
    figures = {f"{name}_{shown}": value for name, found in findings.items() for shown, value in found.right.items()}
    print(" ".join(f"{name}={value:.3f}" for name, value in figures.items()))


@torch.no_grad()
def study(run: Path, pairs: Path, max_pairs: int) -> Findings:
    checkpoint = find_checkpoint(run, PretrainConfig)
    model, config = load_model(checkpoint), checkpoint.config
    tokenizer = TextTokenizer(checkpoint.text_tokenizer)
    images, captions = read_held_out(pairs, config.data, config.model.image_size, max_pairs)
    pixels, masks = network_view(images, config.model.image_size), training_masks(config, len(images))
    questions = [
        question
        for pair, caption in enumerate(captions)
        for question in masked_words(pair, caption, tokenizer, config.data.caption_length)
        if UNK_ID not in question.labels
    ]
    num_right = dict.fromkeys(CONDITIONS, 0)
    norms = torch.zeros(config.model.depth + 1, len(KINDS))
    attention, num_rows = torch.zeros(config.model.depth, len(KINDS)), torch.zeros(len(KINDS))
    for question in questions:
        for name, (is_masked, unseen_kinds) in CONDITIONS.items():
            mask = masks[question.pair] & is_masked
            ids = torch.tensor([[piece for piece in question.ids if piece != PAD_ID]])
            kinds = kinds_of_rows(mask, ids.shape[1], question.positions)
            unseen = torch.isin(kinds, torch.tensor(unseen_kinds, dtype=kinds.dtype))
            inputs = VisibleInputs(
                images=pixels[question.pair][None],
                image_mask=mask[None],
                caption_ids=ids,
                caption_padding=torch.zeros_like(ids, dtype=torch.bool),
                text_ids=ids[:0],
                text_padding=ids[:0].bool(),
                unseen=unseen,
            )
            with recorded(model) as record:
                states = model.encode(inputs).captions
            guesses = model.mlm_head(states[0, question.positions]).argmax(-1)
            num_right[name] += guesses.tolist() == question.labels
            if name == "masked":
                of_kind = torch.nn.functional.one_hot(kinds, len(KINDS)).float()  # (rows, kinds)
                norms += torch.stack([stream.norm(dim=1) @ of_kind for stream in record.streams])
                attention += torch.stack([weights[kinds == HIDDEN].mean(0) @ of_kind for weights in record.attention])
                num_rows += of_kind.sum(0)
    return Findings(
        norms / num_rows,
        attention / len(questions),
        num_rows / num_rows.sum(),
        {name: count / len(questions) for name, count in num_right.items()},
    )


def kinds_of_rows(mask: Tensor, num_words: int, hidden: list[int]) -> Tensor:
    """Return the kind of each row of a pair, (V + C,).

    mask: (V - 1,) bool, True = hidden patch; hidden: positions of the hidden words.
    """
    words = torch.full((num_words,), WORDS)
    words[hidden] = HIDDEN
    return torch.cat([torch.tensor([CLASS]), torch.where(mask, MASKS, PATCHES), words])


@dataclass(frozen=True, eq=False)
class Record:
    """Intermediate values of a forward of one pair."""

    streams: list[Tensor]
    """(rows, D): the residual stream before each block and after the last."""
    attention: list[Tensor]
    """(rows, rows): attention of each block, averaged over the heads."""


@contextmanager
def recorded(model: MaskedDataModel) -> Iterator[Record]:
    """Record forwards of a model on one pair."""
    record = Record([], [])

    def keep_stream(x: Tensor, branch: Branch | None) -> None:
        record.streams.append(x if branch is None else add_branch(x, branch))

    def keep_attention(module: Any, arguments: Any, output: Tensor) -> None:
        heads = model.encoder.config.num_heads
        queries, keys, _ = output.view(len(output), 3, heads, -1).permute(1, 2, 0, 3)  # (heads, rows, K) each
        scores = queries @ keys.transpose(1, 2) / math.sqrt(queries.shape[-1])
        record.attention.append(scores.softmax(-1).mean(0))

    # the last branch is added by what comes next, the next block or the final norm
    handles = [model.encoder.norm.register_forward_pre_hook(lambda _, given: keep_stream(given[0], given[3]))]
    for block in cast(Iterable[MultiwayBlock], model.encoder.blocks):
        handles.append(block.register_forward_pre_hook(lambda _, given: keep_stream(given[0], given[1])))
        handles.append(block.attn.qkv.register_forward_hook(keep_attention))
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def table(name: str, found: Findings) -> str:
    """Format norms, attention and words of a run as Markdown."""
    lines = [f"\n{name}\n", f"| | {' | '.join(KINDS)} |", f"| --- |{' ---: |' * len(KINDS)}"]

    def row(title: str, values: Tensor, form: str) -> None:
        lines.append(f"| {title} | {' | '.join(format(value, form) for value in values.tolist())} |")

    for layer, values in enumerate(found.norms):
        row(f"norm before block {layer + 1}" if layer < len(found.attention) else "norm after the last", values, ".1f")
    row("share of the rows", found.share, ".1%")
    for layer, values in enumerate(found.attention):
        row(f"attention of hidden words, block {layer + 1}", values, ".1%")
    lines.append("words right: " + ", ".join(f"{condition} {value:.1%}" for condition, value in found.right.items()))
    return "\n".join(lines)


def draw(findings: dict[str, Findings], path: Path) -> None:
    """Draw a row of the picture per run: norms over the depth, attention over the depth, words right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure, rows = pyplot.subplots(
        len(findings), 3, figsize=(12, 2.9 * len(findings)), layout="constrained", squeeze=False
    )
    for (name, found), axes in zip(findings.items(), rows, strict=True):
        depth = len(found.attention)
        for kind, title in enumerate(KINDS):
            axes[0].plot(range(depth + 1), found.norms[:, kind], ".-", label=title)
            axes[1].plot(range(1, depth + 1), 100 * found.attention[:, kind], ".-", label=title)
        axes[0].set_title(f"{name}: norm of a row", fontsize=9)
        axes[0].set_xlabel("blocks passed", fontsize=8)
        axes[0].set_xticks(range(depth + 1))
        axes[0].set_yscale("log")
        axes[1].set_ylim(-2, 80)
        axes[1].set_title("attention of hidden words, %", fontsize=9)
        axes[1].set_xlabel("block", fontsize=8)
        axes[1].set_xticks(range(1, depth + 1))
        titles = {"masked": "as trained", "whole": "whole image", "masks_unseen": "no row sees\nmask tokens",
                  "patches_unseen": "no row sees\npatches"}  # fmt: skip
        axes[2].bar(list(titles.values()), [100 * found.right[condition] for condition in titles])
        axes[2].set_title("hidden words right, %", fontsize=9)
        axes[2].tick_params(axis="x", labelsize=7)
        for axis in axes:
            axis.grid(alpha=0.3)
    rows[0][0].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
