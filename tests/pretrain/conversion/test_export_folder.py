"""Folders of converted weights: written completely or not at all, without replacing foreign files. CPU, seconds."""

import fcntl
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from data_pipeline.settings.command_line import EXIT_USER_ERROR, run_command
from model.pretrained import save_network
from pretrain.conversion.convert import convert, report
from pretrain.conversion.options import ConvertOptions
from tests.support.tiny import tiny_model
from tests.support.tiny_run import TinyData

Format = Literal["beit3", "timm", "safetensors"]
FORMATS: tuple[Format, ...] = ("beit3", "timm", "safetensors")
NUM_WORDS = 120


@pytest.fixture(scope="module")
def ours(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of safetensors with a tokenizer of fewer ids than rows. Read only."""
    folder: Path = tmp_path_factory.mktemp("ours")
    model = tiny_model(vocab_size=NUM_WORDS)
    save_network(dict(model.state_dict()), model.encoder.config, folder)
    (folder / "text_tokenizer.spm").write_bytes((tiny_data.folder / "text_tokenizer.spm").read_bytes())
    return folder


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Limit the size of files: writing more fails with EFBIG, as it does with ENOSPC on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def ended(options: ConvertOptions, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the standard error of the command, which must exit with 2."""
    words = [str(options.source), str(options.out), "--to", str(options.to), "--from", options.from_, "--no-verify"]
    monkeypatch.setattr("sys.argv", ["convert", *words])
    with pytest.raises(SystemExit) as ending:
        run_command(ConvertOptions, "pretrain.convert", lambda parsed: report(convert(parsed)))
    assert ending.value.code == EXIT_USER_ERROR
    return capsys.readouterr().err


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("num_bytes", [0, 100, 20_000])
def test_a_full_disk_ends_with_a_sentence_and_leaves_nothing(
    to: Format, num_bytes: int, ours: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    options = ConvertOptions(ours, tmp_path / "out", to, "safetensors")
    with files_of_at_most(num_bytes):
        said = ended(options, capsys, monkeypatch)
    assert said.startswith(f"error: {tmp_path / 'out'} cannot be written (") and said.count("\n") == 1
    assert "File too large" in said and "make room there" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", FORMATS)
def test_a_full_disk_leaves_an_earlier_export_as_it_was(to: Format, ours: Path, tmp_path: Path) -> None:
    options = ConvertOptions(ours, tmp_path, to, "safetensors", verify=False)
    convert(options)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with files_of_at_most(20_000), pytest.raises(OSError, match="cannot be written"):
        convert(options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("out", ["/proc/out", "/dev/null", "/dev/null/out"])
def test_a_folder_that_cannot_be_written_is_reported_in_one_sentence(
    to: Format, out: str, ours: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ended(ConvertOptions(ours, Path(out), to, "safetensors"), capsys, monkeypatch)
    assert said.startswith(f"error: {out} ") and said.count("\n") == 1 and "give another folder" in said


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_all_files_have_the_permissions_that_the_umask_asks_for(
    to: Format, umask: int, mode: int, ours: Path, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        convert(ConvertOptions(ours, tmp_path / "out", to, "safetensors", verify=False))
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert len(found) >= 4 and set(found.values()) == {mode}, found


def folder_at(name: str) -> Callable[[Path], None]:
    return lambda out: (out / name).mkdir()


def file_at(name: str, text: str) -> Callable[[Path], None]:
    return lambda out: print(text, end="", file=(out / name).open("w"))


@pytest.mark.parametrize(
    ("to", "put_there", "message"),
    [
        ("beit3", file_at("beit3_fusion.pth", "mine"), "holds files of others already"),
        ("beit3", file_at("beit3_fusion.json", '{"my": "notes"}'), "holds files of others already"),
        ("beit3", file_at("beit3_fusion.json", "[]"), "does not hold a JSON object"),
        ("beit3", file_at("beit3_fusion.json", "{"), "beit3_fusion.json is not valid JSON"),
        ("beit3", folder_at("beit3_fusion.pth"), "beit3_fusion.pth is a folder"),
        ("beit3", file_at("README.md", "# my project"), "README.md is not a card that was written here"),
        ("beit3", file_at("text_tokenizer.spm", "mine"), "is the text tokenizer of other weights"),
        ("timm", file_at("model.safetensors", "mine"), "holds files of others already"),
        ("timm", file_at("config.json", "{}"), "holds files of others already"),
        ("timm", file_at("card.json", '{"format": "safetensors"}'), "holds safetensors already"),
        ("safetensors", file_at("card.json", "5"), "does not hold a JSON object"),
        ("safetensors", folder_at("text_tokenizer.spm"), "text_tokenizer.spm is a folder"),
        ("safetensors", folder_at("checkpoints"), "is a run or a checkpoint"),
        ("timm", file_at("preprocessing.json", '{"image_size": 99}'), "preprocessing.json is that of other weights"),
        ("timm", file_at("preprocessing.json", "{}"), "preprocessing.json is not valid: image_size Field required"),
        ("timm", folder_at("preprocessing.json"), "preprocessing.json is a folder"),
    ],
)
def test_foreign_files_are_not_replaced(
    to: Format, put_there: Callable[[Path], None], message: str, ours: Path, tmp_path: Path
) -> None:
    put_there(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match=f"{message}.*(another folder|write it again)"):
        convert(ConvertOptions(ours, tmp_path, to, "safetensors", verify=False))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_the_source_is_not_replaced_by_its_result(ours: Path, tmp_path: Path) -> None:
    first = convert(ConvertOptions(ours, tmp_path, "beit3", "safetensors", role="dual", verify=False)).path
    with pytest.raises(ValueError, match="beit3_dual.pth is the source itself; give another folder"):
        convert(ConvertOptions(first, tmp_path, "beit3", "beit3", role="dual"))
    with pytest.raises(ValueError, match="model.safetensors is the source itself; give another folder"):
        convert(ConvertOptions(ours, ours, "safetensors", "safetensors", image_size=64))


def test_a_file_that_another_process_is_writing_is_refused(ours: Path, tmp_path: Path) -> None:
    partial = tmp_path / ".partial-beit3_fusion"
    partial.mkdir()
    (partial / "left by a killed one").write_text("")
    descriptor = os.open(partial, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    options = ConvertOptions(ours, tmp_path, "beit3", "safetensors", verify=False)
    with pytest.raises(ValueError, match="another pretrain.convert writes .*beit3_fusion.pth now"):
        convert(options)
    os.close(descriptor)
    convert(options)
    assert not partial.exists()


def test_one_readme_describes_all_weights_in_a_folder(ours: Path, tmp_path: Path) -> None:
    for role in ("fusion", "dual", "fusion"):
        convert(ConvertOptions(ours, tmp_path, "beit3", "safetensors", role=role, verify=False))  # type: ignore[arg-type]
    text = (tmp_path / "README.md").read_text()
    assert text.count("\n## ") == 2 and "## beit3_dual.pth" in text and "## beit3_fusion.pth" in text
    assert "Role fusion: exact for Microsoft's tasks vqav2, nlvr2, coco_captioning, nocaps." in text
    assert "Microsoft's finetuning code cannot load it: not base or large" in text


def test_weights_with_other_preprocessing_are_not_joined(ours: Path, tmp_path: Path) -> None:
    options = ConvertOptions(ours, tmp_path, "beit3", "safetensors", role="dual", verify=False)
    convert(options)
    convert(replace(options, image_size=64))  # replaces the file, and nothing else lies there
    assert json.loads((tmp_path / "preprocessing.json").read_text())["image_size"] == 64
    with pytest.raises(ValueError, match="preprocessing.json is that of other weights; give another folder"):
        convert(replace(options, role="fusion"))
    convert(replace(options, role="fusion", image_size=64))
    with pytest.raises(ValueError, match="preprocessing.json is that of other weights; give another folder"):
        convert(options)


def test_a_card_and_the_file_hold_the_fingerprint_of_the_tokenizer(ours: Path, tmp_path: Path) -> None:
    path = convert(ConvertOptions(ours, tmp_path, "beit3", "safetensors", verify=False)).path
    sha256 = json.loads((tmp_path / "beit3_fusion.json").read_text())["text_tokenizer"]["sha256"]
    assert torch.load(path, weights_only=True)["text_tokenizer_sha256"] == sha256
    assert sha256 in (tmp_path / "README.md").read_text()
    (tmp_path / "text_tokenizer.spm").rename(tmp_path / "beit3.spm")  # as in earlier exports
    again = convert(ConvertOptions(path, tmp_path / "again", "safetensors", "beit3", num_heads=4, verify=False))
    assert again.card["text_tokenizer"]["sha256"] == sha256
    (tmp_path / "beit3.spm").write_bytes(b"another")
    with pytest.raises(ValueError, match="beit3.spm is not the text tokenizer that the weights beside it were trained"):
        convert(ConvertOptions(path, tmp_path / "third", "safetensors", "beit3", num_heads=4, verify=False))


def test_a_tokenizer_that_an_earlier_version_wrote_is_not_joined_by_another(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "beit3.spm").write_bytes(b"Microsoft's own")
    convert(ConvertOptions(ours, tmp_path, "beit3", "safetensors", verify=False))
    (tmp_path / "beit3_dual.json").write_text('{"format": "beit3"}')  # an earlier version wrote no fingerprint
    with pytest.raises(ValueError, match="beit3.spm is the text tokenizer of other weights; give another folder"):
        convert(ConvertOptions(ours, tmp_path, "beit3", "safetensors", verify=False))
