"""The rules of captions, and the figures of those that a network wrote. CPU, milliseconds."""

import math
from pathlib import Path

import pytest
import torch

from data_pipeline.loading.task_config import TaskDataConfig
from data_pipeline.loading.task_sample import TaskLabels
from data_pipeline.texts.tokenizer import BOS_ID, EOS_ID, PAD_ID, TextTokenizer
from pretrain.evaluation.task_samples import open_held_out_task
from pretrain.evaluation.written_captions import (
    CAPTION_NAMES,
    Writing,
    caption_figures,
    caption_results,
    caption_rules,
    texts_of,
)
from pretrain.formats.preprocessing import Preprocessing
from tests.support.task_networks import write_by_hand
from tests.support.tiny_run import TinyData

CAPTIONS = [["A red circle.", "a circle, red"], ["two blue stars on white"], []]


def test_the_rules_are_microsofts_but_for_ids_that_are_no_words(tiny_data: TinyData) -> None:
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    rules = caption_rules(tokenizer, tokenizer.vocab_size + 8, Writing())
    assert rules.never_ids[3:] == tuple(range(tokenizer.mask_id, tokenizer.vocab_size + 8))
    assert (rules.num_beams, rules.length_penalty, rules.max_length) == (3, 0.6, 32)
    ids = [BOS_ID, *tokenizer.encode("a red circle"), EOS_ID, PAD_ID]
    assert texts_of(torch.tensor([ids]).float(), tokenizer) == ["a red circle"]


def test_captions_are_compared_with_those_of_people_without_case_and_punctuation(
    tmp_path: Path, tiny_data: TinyData
) -> None:
    annotations: list[dict[str, object]] = [
        {"image_id": number, "captions": found} for number, found in enumerate(CAPTIONS)
    ]
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    folder = str(write_by_hand(tmp_path, "caption", annotations))
    labels, preprocessing = TaskLabels("caption", None), Preprocessing(16, text_length=12)
    samples = open_held_out_task(folder, "--held-out", TaskDataConfig(), labels, tokenizer, preprocessing)
    texts, all_good = ["a red circle", "Two blue stars, on white!", "anything"], torch.ones(3, dtype=torch.bool)
    found = caption_figures(samples, texts, all_good)
    assert tuple(found) == CAPTION_NAMES and found["caption/bleu4"] == pytest.approx(1, abs=1e-6)
    # the first has the words of its first reference in their order, and has no n-grams of four words
    own = 10 * 3 / 4
    assert found["caption/cider"] > own / 2
    # an image without captions has no figure, and a result for the server
    assert caption_results(samples, texts, all_good)[2] == (2, "anything")
    nothing = caption_figures(samples, texts, torch.tensor([False, False, True]))
    assert all(math.isnan(value) for value in nothing.values())
