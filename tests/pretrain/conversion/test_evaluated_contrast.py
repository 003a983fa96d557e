"""Figures of an exported dual encoder: the same on any number of ranks, and mistakes. CPU, seconds; a launch."""

import json
import shutil
from pathlib import Path

import pytest

from data_pipeline.texts.tokenizer import TextTokenizer
from model.pretrained import save_network
from pretrain.conversion.evaluated import evaluate_source, report
from pretrain.evaluation.options import EvaluateOptions
from pretrain.formats.vocabulary import EXPORTED_NAME
from tests.support.evaluated import write_captioned_classes, write_labelled
from tests.support.launch import run_ranks
from tests.support.shard_files import png
from tests.support.tiny import tiny_dual_encoder
from tests.support.tiny_run import TinyData

NUM_IMAGES = 11


@pytest.fixture(scope="module")
def export(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a dual encoder and its text tokenizer."""
    folder, tokenizer = tmp_path_factory.mktemp("export"), tiny_data.folder / EXPORTED_NAME
    network = tiny_dual_encoder(vocab_size=TextTokenizer(tokenizer).vocab_size)
    save_network(network.state_dict(), network.encoder.config, folder, heads=network.heads)
    shutil.copy(tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a source of images with one to three captions, some of which two images have."""
    folder = tmp_path_factory.mktemp("coco")
    lines = []
    for number in range(NUM_IMAGES):
        (folder / f"{number}.png").write_bytes(png((20 * number, 255 - 20 * number, 90)))
        captions = ["a red circle", f"{number} green stars", f"on white a cross and {number}"][: number % 3 + 1]
        lines.append(json.dumps({"image": f"{number}.png", "caption": captions}) + "\n")
    (folder / "pairs.jsonl").write_text("".join(lines))
    return folder / "pairs.jsonl"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("labelled") / "images", num_classes=7, num_images=3)


@pytest.mark.parametrize(
    "num_ranks", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_ranks_share_the_work_and_find_the_same_figures(
    num_ranks: int, export: Path, pairs: Path, labelled: Path
) -> None:
    """Compare what the command prints, six digits of a figure, with the figures of this process."""
    subject, figures = evaluate_source(EvaluateOptions(export, pairs=str(pairs), labelled=str(labelled), chunk_size=4))
    assert subject == (
        f"{export}; {NUM_IMAGES} images with 21 captions from {pairs}; 21 images of 7 classes from {labelled}, 7 texts "
        "for each"
    )
    assert {name.partition("/")[0] for name in figures} == {"loss", "retrieval", "zero_shot", "knn", "probe"}
    arguments = [export, "--pairs", pairs, "--labelled", labelled, "--chunk-size", 4]
    ended = run_ranks(num_ranks, "pretrain.evaluate", ["--local_rank=0", *arguments])
    assert ended.exit_codes == [0] * num_ranks, ended.stderr
    assert ended.stdout == [report(subject, figures) + "\n", *[""] * (num_ranks - 1)]


@pytest.mark.slow
def test_a_mistake_ends_all_ranks_with_one_sentence(export: Path, tmp_path: Path) -> None:
    for arguments in ([export, "--pairs", tmp_path / "missing"], [export, "--no-such-option"]):
        ended = run_ranks(2, "pretrain.evaluate", arguments)
        assert ended.exit_codes == [2, 2] and ended.stdout == ["", ""]
        assert "error: " in ended.stderr[0] and "error: " not in ended.stderr[1]


def test_given_pairs_are_taken_whole_unless_a_number_is_given(export: Path, pairs: Path) -> None:
    subject, _ = evaluate_source(EvaluateOptions(export, pairs=str(pairs), num_samples=5, parts=("losses",)))
    assert "3 images with 5 captions" in subject
    subject, _ = evaluate_source(EvaluateOptions(export, pairs=str(pairs), captions_per_image=1, parts=("losses",)))
    assert f"{NUM_IMAGES} images with {NUM_IMAGES} captions" in subject


def test_what_is_missing_is_said(export: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no held-out data; give --pairs or --labelled"):
        evaluate_source(EvaluateOptions(export))
    folder = shutil.copytree(export, tmp_path / "export")
    (folder / EXPORTED_NAME).unlink()
    with pytest.raises(ValueError, match="no text tokenizer lies beside"):
        evaluate_source(EvaluateOptions(folder, pairs=str(pairs)))


def test_options_of_other_networks_and_labels_without_a_class_are_said(
    export: Path, pairs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="--num-words is not for a dual encoder, as .* is; leave it out"):
        evaluate_source(EvaluateOptions(export, pairs=str(pairs), num_words=9))
    labels = write_captioned_classes(tmp_path / "labels", ["cat", "cat", "\n", "dog", "dog"])
    subject, _ = evaluate_source(EvaluateOptions(export, labelled=str(labels), parts=("zero_shot",)))
    assert "4 images of 2 classes" in subject
    said = f"skipped 1 samples of {labels}: text has no visible character"
    assert said in capfd.readouterr().err
