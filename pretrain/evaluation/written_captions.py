"""Captions that a network writes for held-out images, and how near they are to those of people.

| figure         | meaning                                                             |
| -------------- | ------------------------------------------------------------------- |
| caption/bleu4  | BLEU-4, from 0 to 1; publications give 100 times it                  |
| caption/cider  | CIDEr-D, from 0 to 10; publications give 100 times it                |

Shapes: B images of a chunk, n of all; L most tokens of a caption.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from data_pipeline.samples.tasks import CaptionAnnotation, Identifier
from data_pipeline.texts.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID, TextTokenizer
from model.captioner import CaptionRules, captions
from model.networks import WordNetwork
from pretrain.evaluation.caption_scores import bleu4, cider_d
from pretrain.evaluation.caption_words import caption_words
from pretrain.evaluation.evaluation import Figures
from pretrain.evaluation.task_samples import HeldOutTask

CAPTION_NAMES = ("caption/bleu4", "caption/cider")
"""Names of the figures."""
SHORTEST, LONGEST = 3, 32
"""Fewest tokens that a caption may be allowed, as a mask token stands after the last word but one; and the most by
default, those of Microsoft's recipes."""


@dataclass(frozen=True)
class Writing:
    """How captions are written; the defaults are Microsoft's."""

    num_beams: int = 3
    length_penalty: float = 0.6
    max_length: int = LONGEST
    """Most tokens of a caption, <s> and </s> included."""
    min_words: int = 1


def caption_rules(tokenizer: TextTokenizer, vocab_size: int, writing: Writing) -> CaptionRules:
    """Return the rules of captions in the words of a tokenizer. vocab_size: number of the network's rows of words."""
    mask_id = tokenizer.mask_id
    # rows after <mask> belong to no word of the tokenizer
    never = (BOS_ID, PAD_ID, UNK_ID, *range(mask_id, vocab_size))
    return CaptionRules(
        BOS_ID,
        EOS_ID,
        PAD_ID,
        mask_id,
        never,
        writing.max_length,
        writing.min_words,
        writing.num_beams,
        writing.length_penalty,
    )


def caption_rows(network: WordNetwork, pixels: Tensor, rules: CaptionRules) -> Tensor:
    """Return the ids of a caption per image, (B, L) float32, padded; NaN if its score is not finite."""
    found = captions(network, pixels, rules)
    ids = pad(found.ids, (0, rules.max_length - found.ids.shape[1]), value=rules.pad_id)
    return ids.float().masked_fill(~found.scores.isfinite()[:, None], torch.nan)  # exact: ids are below 2^24


def caption_figures(samples: HeldOutTask, texts: list[str], is_good: Tensor) -> Figures:
    """Return the figures of all images that could be read and have captions, NaN if there is none.

    texts: (n,), a caption per image; is_good: (n,) bool.
    """
    written, references = [], []
    for place, annotation in enumerate(samples.annotations):
        if isinstance(annotation, CaptionAnnotation) and annotation.captions and is_good[place]:
            written.append(caption_words(texts[place]))
            references.append([caption_words(caption) for caption in annotation.captions])
    if not written:
        return dict.fromkeys(CAPTION_NAMES, float("nan"))
    return {"caption/bleu4": bleu4(written, references), "caption/cider": cider_d(written, references)}


def caption_results(samples: HeldOutTask, texts: list[str], is_good: Tensor) -> list[tuple[Identifier, str]]:
    """Return the identifier and the caption of each image that could be read."""
    found = ((samples.annotations[place], texts[place]) for place in samples.usable(is_good))
    return [(annotation.image_id, text) for annotation, text in found if isinstance(annotation, CaptionAnnotation)]


def texts_of(rows: Tensor, tokenizer: TextTokenizer) -> list[str]:
    """Return the captions of (n, L) ids."""
    return [tokenizer.decode(ids) for ids in rows.to(torch.int64).tolist()]
