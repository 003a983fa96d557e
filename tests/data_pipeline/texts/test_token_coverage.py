"""Texts that a tokenizer does not cover are reported when written, when checked and by a run."""

import json
from pathlib import Path

from data_pipeline.check_shards import CheckOptions, check_shards
from data_pipeline.index_shards import IndexOptions, index_shards
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import SampleReader
from data_pipeline.shards.writer import SampleFilter
from data_pipeline.texts.token_coverage import MAX_CHARACTERS, covered_share
from data_pipeline.texts.tokenizer import NO_TOKEN, TextTokenizer
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.launch import run_ranks
from tests.support.shard_files import GOOD, write_tar
from tests.support.tiny_run import TinyData

ZERO_WIDTH = "\u200b\u200d\ufeff"


NORMALISED_AWAY = "\ufffd\ufffd"
"""Visible, but SentencePiece's normalisation leaves nothing of it."""


def test_every_command_reports_texts_that_the_tokenizer_does_not_cover(tiny_data: TinyData, tmp_path: Path) -> None:
    tokenizer = tiny_data.folder / "text_tokenizer.spm"
    source = tmp_path / "texts.jsonl"
    source.write_text("\n".join(json.dumps({"text": "\u96ea\u306e " * n}) for n in range(1, 30)))
    arguments = ["text", source, tmp_path / "out", "--text-tokenizer", tokenizer, "--text-length", 24]
    ended = run_ranks(1, "data_pipeline.write_shards", arguments, fresh=True)
    assert ended.exit_codes == [0] and "  warning: " in ended.stdout[0], ended.stderr
    assert "tokens are <unk>, more than 1%: the text tokenizer does not cover these texts" in ended.stdout[0]

    ended = run_ranks(1, "data_pipeline.check_shards", [tmp_path / "out", "--text-tokenizer", tokenizer], fresh=True)
    assert ended.exit_codes == [0] and "  warning: " in ended.stdout[0]

    config = DataConfig(texts=(str(tmp_path / "out"),), text_tokenizer=tokenizer, text_length=24, num_lanes=1)
    lines = StepDataset(config, SamplesPerStep(0, 0, 1), 32, 0).describe()
    assert lines[1].startswith(f"warning: {tmp_path / 'out'}: ")


def test_known_texts_give_their_share_without_a_warning(tiny_data: TinyData) -> None:
    reader = SampleReader(read_index(tiny_data.folder / "texts"), 1 << 20)
    share = covered_share(reader, TextTokenizer(tiny_data.folder / "text_tokenizer.spm"))
    assert share.num_tokens > 100 and share.num_unknown == 0 and share.warning == ""
    assert covered_share(reader, TextTokenizer(tiny_data.folder / "text_tokenizer.spm"), 1).num_tokens < 24


def test_texts_without_a_token_are_counted_when_written(tiny_data: TinyData, tmp_path: Path) -> None:
    texts = [ZERO_WIDTH, "\u00ad\u2060", "\u0007", " ", "a red circle"]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    tokenizer = tiny_data.folder / "text_tokenizer.spm"
    keep = SampleFilter(held_out_fraction=0)
    source, out = str(tmp_path / "texts.jsonl"), tmp_path / "out"
    report = write_shards(ShardOptions("text", source, out, keep=keep, text_tokenizer=tokenizer, text_length=24))
    assert report.num_kept == 1
    assert report.skipped == {"text has no visible character": 3, "text is missing or empty": 1}


def test_only_the_beginning_of_a_long_text_counts(tiny_data: TinyData, tmp_path: Path) -> None:
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    text = "a red star " * (MAX_CHARACTERS // 11) + " " * 20 + "\u0416" * 100
    write_tar(tmp_path / "0.tar", [("a.txt", text.encode())])
    index_shards(IndexOptions("text", str(tmp_path), num_workers=1))
    share = covered_share(SampleReader(read_index(tmp_path), 1 << 20), tokenizer)
    assert share.num_unknown == 0 and share.num_tokens < len(tokenizer.encode(text))


def test_captions_without_a_token_are_bad_samples_of_a_run_and_of_check_shards(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    captions = {"a": "a red star", "b": NORMALISED_AWAY, "c": ZERO_WIDTH, "d": "a star"}
    members = [(f"{key}.txt", caption.encode()) for key, caption in captions.items()]
    write_tar(tmp_path / "0.tar", [*members, *((f"{key}.png", GOOD) for key in captions)])
    index_shards(IndexOptions("pair", str(tmp_path), num_workers=1))
    tokenizer = tiny_data.folder / "text_tokenizer.spm"
    result = check_shards(CheckOptions(str(tmp_path), text_tokenizer=tokenizer, num_workers=1))
    assert result.report.num_kept == 2 and result.report.examples == {
        NO_TOKEN: "0.tar:b",
        "text has no visible character": "0.tar:c",
    }
    config = DataConfig(pairs=(str(tmp_path),), text_tokenizer=tokenizer, num_lanes=1)
    batch = StepDataset(config, SamplesPerStep(0, 4, 0), 16, 0)[0]
    assert {(bad.key, bad.reason) for bad in batch.bad_samples} == {
        ("b", NO_TOKEN),
        ("c", "text has no visible character"),
    }
    assert min(batch.caption_lengths) > 2 and not batch.failure
