"""Accuracy of guessing masked words, and the warning about whole images. CPU, seconds."""

import io
import tarfile
from pathlib import Path

import pytest
import torch

from data_pipeline.index_shards import IndexOptions, index_shards
from data_pipeline.texts.tokenizer import BOS_ID, EOS_ID, TextTokenizer
from model.kernels.block_masks import block_image_masks
from pretrain.checkpoints.weights import find_checkpoint, load_model
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.chunks import NotFiniteError
from pretrain.evaluation.held_out import read_held_out
from pretrain.evaluation.masked_words import (
    Guesses,
    MaskedWord,
    MaskedWordsResult,
    evaluate_masked_words,
    guess_words,
    masked_words,
    report,
)
from pretrain.evaluation.options import MaskedWordsOptions
from pretrain.jobs.visual_tokens import network_view
from tests.support.launch import run_ranks
from tests.support.shard_files import GOOD
from tests.support.tiny import CONFIG, tiny_model
from tests.support.tiny_run import TinyData


def test_words_and_patches_of_pairs_are_evaluated_by_command(two_ranks: Path, tiny_data: TinyData) -> None:
    result = evaluate_masked_words(MaskedWordsOptions(two_ranks, tiny_data.folder / "pairs", max_pairs=10))
    guesses = (result.right_image, result.wrong_image, result.right_masked, result.wrong_masked)
    assert all(0 <= each.accuracy <= 1 and each.nll > 0 and len(each.is_right) == result.num_words for each in guesses)
    assert result.num_words > 10 and result.num_masked_patches == 14
    assert len({each.nll for each in guesses}) == 4  # each had different inputs
    checkpoint = find_checkpoint(two_ranks, PretrainConfig)
    model, config = load_model(checkpoint), checkpoint.config
    images, captions = read_held_out(tiny_data.folder / "pairs", config.data, 48, 10)
    tokenizer = TextTokenizer(checkpoint.text_tokenizer)
    questions = [
        q for pair, text in enumerate(captions) for q in masked_words(pair, text, tokenizer, config.data.caption_length)
    ]
    masks = block_image_masks(config.seed, torch.arange(10), 6, 14, 3, "reference").mask
    for expected, mask, shift in (
        (result.right_image, torch.zeros_like(masks), 0),
        (result.wrong_image, torch.zeros_like(masks), 5),
        (result.right_masked, masks, 0),
        (result.wrong_masked, masks, 5),
    ):
        found = guess_words(model, network_view(images, 48), mask, questions, shift, lambda _: None)
        assert found.nll == pytest.approx(expected.nll) and torch.equal(found.is_right, expected.is_right)
    ended = run_ranks(1, "pretrain.masked_patches", [two_ranks, tiny_data.folder / "pairs"])
    assert ended.exit_codes == [0] and ended.stdout[0].startswith("images=40 patches=560 hidden=14/36 acc=")
    ended = run_ranks(1, "pretrain.masked_patches", [two_ranks, tiny_data.folder / "texts"])
    assert ended.exit_codes == [2] and "holds shards of kind 'text', not 'image' or 'pair'" in ended.stderr[0]


@pytest.mark.parametrize(
    ("right_whole", "right_masked", "warns"),
    [(8, 75, True), (75, 8, False), (60, 60, False), (60, 66, False), (60, 80, True), (0, 0, False), (0, 12, True)],
)
def test_whole_images_that_are_worse_than_masked_ones_cause_a_warning(
    right_whole: int, right_masked: int, warns: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    def first(count: int) -> Guesses:
        return Guesses(torch.arange(200) < count, 4.0)

    printed = report(
        MaskedWordsResult(
            num_words=200,
            num_unknown_words=0,
            commonest=0.05,
            right_image=first(right_whole),
            wrong_image=first(4),
            num_masked_patches=26,
            right_masked=first(right_masked),
            wrong_masked=first(58),
        )
    )
    assert f"acc_right_image={right_whole / 200:.3f} acc_wrong_image=0.020 acc_commonest=0.050" in printed
    assert f"masked_patches=26 acc_right_masked={right_masked / 200:.3f} acc_wrong_masked=0.290" in printed
    said = capfd.readouterr().err
    assert said.startswith("warning:") == warns
    if (right_whole, right_masked) == (8, 75):
        assert "37.5% of the words are guessed with 26 patches of each image hidden" in said
        assert "only 4.0% with whole images" in said and "--objective.whole-image-share" in said


def test_guesses_that_are_not_finite_are_refused_by_word() -> None:
    model, size = tiny_model(), CONFIG.image_size
    with torch.no_grad():
        model.mlm_head.weight.fill_(torch.nan)
    question = MaskedWord(0, "dog", [BOS_ID, 7, EOS_ID], [1], [9])
    masks = torch.zeros(1, CONFIG.num_patches, dtype=torch.bool)
    with pytest.raises(NotFiniteError, match=r"for 1 of 1 samples \('dog' of pair 0\)"):
        guess_words(model, torch.zeros(1, 3, size, size), masks, [question], 0, lambda _: None)


def test_chance_causes_no_warning() -> None:
    """Test nearly equal numbers of words that only one of the two guesses right."""
    whole, masked = torch.zeros(2, 200, dtype=torch.bool)
    whole[:30], masked[30:70] = True, True
    result = MaskedWordsResult(
        200, 0, 0.05, Guesses(whole, 4.0), Guesses(whole, 4.0), 26, Guesses(masked, 4.0), Guesses(masked, 4.0)
    )
    assert not result.is_worse_with_whole_images


def test_words_that_the_tokenizer_does_not_know_are_left_out(
    two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    def write_pairs(folder: Path, captions: list[str]) -> Path:
        folder.mkdir()
        with tarfile.open(folder / "0.tar", "w") as tar:
            for number, caption in enumerate(captions):
                for extension, content in (("png", GOOD), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{number}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        index_shards(IndexOptions("pair", str(folder), num_workers=1))
        return folder

    foreign = "\u96ea\u306e \u4e2d\u306b"
    mixed = write_pairs(tmp_path / "mixed", ["a red star", f"{foreign} blue circle"])
    result = evaluate_masked_words(MaskedWordsOptions(two_ranks, mixed))
    assert (result.num_words, result.num_unknown_words) == (4, 2)
    with pytest.raises(ValueError, match="4 words hold characters that its text tokenizer does not know"):
        evaluate_masked_words(MaskedWordsOptions(two_ranks, write_pairs(tmp_path / "foreign", [foreign, foreign])))
