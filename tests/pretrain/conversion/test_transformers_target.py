"""Export to transformers: files, the card of the folder, and what is refused. CPU, seconds."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.config import VqaHead
from model.pretrained import WEIGHTS_NAME
from pretrain.config.run_config import WeightKind
from pretrain.conversion.convert import convert, report
from pretrain.conversion.options import ConvertOptions
from pretrain.conversion.transformers_target import TransformersTarget
from pretrain.conversion.verify import TOLERANCE
from pretrain.evaluation.records import append_evaluation, evaluation_line, figures_at
from pretrain.formats.transformers_folder import CODE_FILES, CODE_FOLDER
from tests.support.tiny import tiny_model
from tests.support.tiny_run import TinyData
from tests.support.transformers_folders import load_folder

PROCESSING = {"tokenizer_config.json", "processor_config.json", "text_tokenizer.spm"}
"""Files that only a folder with a text tokenizer has."""


def exported(ours: Path, out: Path, *, verify: bool = True) -> ConvertOptions:
    return ConvertOptions(ours, out, "transformers", "safetensors", verify=verify)


@pytest.fixture(scope="module")
def ours(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of ours with a text tokenizer. Read only."""
    folder: Path = tmp_path_factory.mktemp("ours")
    network = tiny_model(vocab_size=120)
    values = {"model_type": "imglish", **vars(network.encoder.config)}
    (folder / "config.json").write_text(json.dumps(values))
    save_file({name: tensor.clone() for name, tensor in network.state_dict().items()}, folder / WEIGHTS_NAME)
    (folder / "text_tokenizer.spm").write_bytes((tiny_data.folder / "text_tokenizer.spm").read_bytes())
    return folder


def test_networks_of_tasks_are_refused_before_anything_is_written() -> None:
    with pytest.raises(ValueError, match="the code for transformers has no head of vqa; use --to safetensors"):
        TransformersTarget.fitting(None, VqaHead())


def test_a_folder_has_the_weights_the_code_and_a_card_and_is_verified(ours: Path, tmp_path: Path) -> None:
    converted = convert(exported(ours, tmp_path))
    assert converted.largest_difference is not None and converted.largest_difference <= TOLERANCE
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"config.json", "README.md", "card.json", WEIGHTS_NAME, *CODE_FILES, *PROCESSING}
    assert not any(name.startswith((".", "__")) for name in names)
    for name in CODE_FILES:
        assert (tmp_path / name).read_bytes() == (CODE_FOLDER / name).read_bytes()
    weights, expected = load_file(tmp_path / WEIGHTS_NAME), load_file(ours / WEIGHTS_NAME)
    assert weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in expected)
    said = report(converted)
    assert f'AutoModel.from_pretrained("{tmp_path}", trust_remote_code=True)' in said and "read it first" in said
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("---\nlibrary_name: transformers\npipeline_tag: feature-extraction\n")
    num_parameters = sum(tensor.numel() for tensor in weights.values())
    assert f"{num_parameters:,} parameters: 3 blocks of width 32" in readme
    assert "heads for masked words and patches" in readme and "read it before you do" in readme
    again = convert(exported(ours, tmp_path, verify=False))  # its own README.md, with YAML in front, is recognized
    assert again.largest_difference is None


def test_code_that_computes_something_else_is_detected(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "code"
    changed.mkdir()
    for name in CODE_FILES:
        source = (CODE_FOLDER / name).read_text()
        (changed / name).write_text(source.replace("F.gelu(self.fc1(x))", "F.gelu(self.fc1(x), approximate='tanh')"))
    monkeypatch.setattr("pretrain.formats.transformers_folder.CODE_FOLDER", changed)
    with pytest.raises(ValueError, match=r"model.safetensors differs from its source by \d\.\de-0\d, more than 2e-05"):
        convert(exported(ours, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_without_a_text_tokenizer_images_alone_are_processed(ours: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", WEIGHTS_NAME):
        (bare / name).write_bytes((ours / name).read_bytes())
    convert(exported(bare, tmp_path / "out", verify=False))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "preprocessor_config.json" in names and not names & PROCESSING
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "AutoImageProcessor.from_pretrained" in readme and "AutoProcessor" not in readme and "text=" not in readme
    images = torch.randn(1, 3, 32, 32)
    model = load_folder(tmp_path / "out")
    assert model(images).last_hidden_state.shape == (1, 17, 32)
    with pytest.raises(
        ValueError, match="no text tokenizer lies beside these weights, so that no id of <mask> is known"
    ):
        model.caption(images)


def test_a_role_is_refused() -> None:
    with pytest.raises(ValueError, match="holds every expert and serves every use; leave out --role"):
        TransformersTarget("dual")


def test_figures_of_the_converted_step_are_found(tmp_path: Path) -> None:
    assert figures_at(tmp_path, 8, "raw") == {}
    lines = [
        evaluation_line(8, "raw", {"loss/total": 1.0}, 0.1),
        evaluation_line(8, "ema", {"loss/total": 2.0}, 0.1),
        evaluation_line(9, "raw", {"loss/total": float("nan")}, 0.1),
    ]
    for line in lines:
        append_evaluation(tmp_path, line)
    asked: list[tuple[int, WeightKind]] = [(8, "raw"), (8, "ema"), (9, "raw"), (9, "ema")]
    found = [figures_at(tmp_path, step, weights) for step, weights in asked]
    assert found == [{"loss/total": 1.0}, {"loss/total": 2.0}, {"loss/total": None}, {}]
