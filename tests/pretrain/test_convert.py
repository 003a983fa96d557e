"""A run converted to every format, verified, and training resumed from the result. CPU, half a minute."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from model.config import DualHeads
from model.dual_encoder import DualEncoder
from model.embeddings import interpolate_positions
from model.masked_data_model import MaskedDataModel
from model.pretrained import load_network
from pretrain.checkpoints.initial_weights import check_initial_weights, open_initial_weights
from pretrain.checkpoints.weights import checkpoint_weights, find_checkpoint, load_model
from pretrain.config.contrast import ContrastConfig
from pretrain.config.pretraining import PretrainConfig
from pretrain.conversion.beit3_target import Beit3Target
from pretrain.conversion.convert import convert, report
from pretrain.conversion.evaluated import open_export
from pretrain.conversion.opened import open_network
from pretrain.conversion.options import ConvertOptions
from pretrain.conversion.sources import checkpoint_source
from pretrain.conversion.verify import TOLERANCE, largest_difference
from pretrain.evaluation.records import append_evaluation, evaluation_line
from pretrain.formats.beit3_dual import DUAL_PARTS
from pretrain.formats.preprocessing import read_preprocessing
from pretrain.run.run_log import read_log
from tests.support.launch import run_ranks
from tests.support.tiny import tiny_model
from tests.support.tiny_run import TinyData


@pytest.fixture
def run_dir(two_ranks: Path) -> Path:
    return two_ranks


@pytest.fixture(scope="module")
def contrast_run(two_ranks: Path, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a contrastive run with everything that a dual encoder may have: a logit_bias, the heads of masked data
    modeling, vision-language experts, the moving average, and two checkpoints. Read only."""
    folder: Path = tmp_path_factory.mktemp("contrast") / "run"
    arguments = ["contrast_demo", *tiny_data.overrides(folder), "--initial-weights", two_ranks, "--loss", "sigmoid"]
    arguments += ["--masked-data-weight", 0.5, "--num-steps", 4, "--save-every-steps", 2, "--optimizer.ema-decay", 0.5]
    ended = run_ranks(1, "pretrain.contrast", arguments)
    assert ended.exit_codes == [0], ended.stderr
    return folder


@pytest.mark.parametrize("chunk_bytes", [1, 10_000, 1 << 30])
def test_weights_are_read_piece_by_piece(run_dir: Path, chunk_bytes: int) -> None:
    checkpoint = find_checkpoint(run_dir)
    folder = checkpoint.folder
    reference = MaskedDataModel(checkpoint.config.model)
    reference.load_state_dict(get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), tag=folder.name))
    expected, found = reference.state_dict(), dict(checkpoint_weights(checkpoint, chunk_bytes))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("to", "role", "name"),
    [
        ("beit3", "fusion", "beit3_fusion.pth"),
        ("beit3", "dual", "beit3_dual.pth"),
        ("beit3", "vision", "beit3_vision.pth"),
        ("beit3", "text", "beit3_text.pth"),
        ("timm", "vision", "model.safetensors"),
        ("safetensors", None, "model.safetensors"),
    ],
)
def test_every_format_is_written_and_verified(run_dir: Path, tmp_path: Path, to: str, role: str, name: str) -> None:
    options = ConvertOptions(run_dir, tmp_path, to=to, role=role, image_size=64)  # type: ignore[arg-type]
    converted = convert(options)
    path, difference = converted.path, converted.largest_difference
    assert path == tmp_path / name
    assert difference is not None and difference <= TOLERANCE
    card_name = name.replace(".pth", ".json") if to == "beit3" else "card.json"
    card = json.loads((tmp_path / card_name).read_text())
    assert (card["format"], card["role"], card["step"], card["image_size"]) == (to, role, 8, 64)
    tokenizer = find_checkpoint(run_dir).text_tokenizer.read_bytes()
    assert (tmp_path / "text_tokenizer.spm").read_bytes() == tokenizer and not (tmp_path / "beit3.spm").exists()
    assert card["text_tokenizer"]["sha256"] == hashlib.sha256(tokenizer).hexdigest()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("between", ["safetensors", "beit3", None])
def test_the_card_for_transformers_tells_data_steps_and_figures_of_the_run(
    contrast_run: Path, tmp_path: Path, between: str | None
) -> None:
    run = shutil.copytree(contrast_run, tmp_path / "run")
    append_evaluation(run, evaluation_line(4, "raw", {"retrieval/image_to_text_r1": 0.25, "loss/contrastive": 1.5}, 1))
    source, form = run, "checkpoint"
    if between == "safetensors":
        source, form = tmp_path / "between", "safetensors"
        convert(ConvertOptions(run, source, to="safetensors", verify=False))
    elif between == "beit3":
        options = ConvertOptions(run, tmp_path / "between", role="dual", verify=False)
        source, form = convert(options).path, "beit3"
    convert(ConvertOptions(source, tmp_path / "out", "transformers", form, verify=False))  # type: ignore[arg-type]
    readme, config = (tmp_path / "out" / "README.md").read_text(), find_checkpoint(contrast_run, ContrastConfig).config
    assert "Weights of step 4 of the run, checkpoint step_00000004." in readme
    assert f"| pairs | {config.data.pairs[0]} | {config.pairs_per_step} |" in readme
    assert f"settings of the run have 4 steps. It began with the weights of {config.initial_weights}." in readme
    assert "| on held-out data, step 4 | |" in readme
    assert f"among the images and captions of at most {config.evaluation.num_samples} held-out pairs." in readme
    assert "| retrieval/image_to_text_r1 | 0.25 |\n| loss/contrastive | 1.5 |\n" in readme


def test_weights_of_one_role_stay_known_as_such_in_our_own_format(run_dir: Path, tmp_path: Path) -> None:
    file = convert(ConvertOptions(run_dir, tmp_path / "file", role="fusion", verify=False)).path
    convert(ConvertOptions(file, tmp_path / "ours", from_="beit3", verify=False))
    convert(ConvertOptions(tmp_path / "ours", tmp_path / "again", "safetensors", "safetensors", verify=False))
    for folder in (tmp_path / "ours", tmp_path / "again"):
        assert open_network(folder).exact_uses == ("pair",)
        with pytest.raises(ValueError, match="exact for image-text pairs only"):
            open_network(folder).check_use("image")
        readme = (folder / "README.md").read_text()  # no figures: they are of the whole network
        assert "Exact for image-text pairs only" in readme and "Weights of step" not in readme
        with pytest.raises(ValueError, match="lacks the settings of a run"):
            open_export(folder)


def test_one_call_loads_our_own_format(run_dir: Path, tmp_path: Path) -> None:
    convert(ConvertOptions(run_dir, tmp_path, to="safetensors", verify=False))
    model = load_network(tmp_path)
    checkpoint = find_checkpoint(run_dir)
    assert model.encoder.config == checkpoint.config.model
    assert not model.training and all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())
    weights = dict(checkpoint_weights(checkpoint))
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.state_dict().items())
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is not the configuration of an Imglish network"):
        load_network(tmp_path)
    with pytest.raises(ValueError, match="does not exist; write it with pretrain.convert"):
        load_network(tmp_path / "nowhere")


def test_the_average_of_the_weights_is_converted_and_verified(run_dir: Path, tmp_path: Path) -> None:
    converted = convert(ConvertOptions(run_dir, tmp_path / "ema", to="safetensors", weights="ema"))
    assert converted.largest_difference is not None and converted.largest_difference <= TOLERANCE
    assert converted.card["weights"] == "ema"
    assert "Moving average of the weights of step 8 of the run" in (tmp_path / "ema" / "README.md").read_text()
    checkpoint = find_checkpoint(run_dir, PretrainConfig)
    found, expected = load_network(tmp_path / "ema").state_dict(), load_model(checkpoint, "ema").state_dict()
    raw, average = dict(checkpoint_weights(checkpoint)), dict(checkpoint_weights(checkpoint, weights="ema"))
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor) and torch.equal(average[name], tensor)
        assert not torch.equal(raw[name], tensor)
        assert torch.allclose(raw[name], tensor, atol=0.02)
    convert(ConvertOptions(run_dir, tmp_path / "file", weights="ema"))  # in Microsoft's format, verified too


def test_another_image_size_interpolates_the_positions(run_dir: Path, tmp_path: Path) -> None:
    convert(ConvertOptions(run_dir, tmp_path, to="safetensors", image_size=96))
    larger, name = load_network(tmp_path), "encoder.vision_embed.pos_embed"
    assert larger.encoder.config.image_size == 96
    expected = interpolate_positions(dict(checkpoint_weights(find_checkpoint(run_dir)))[name], (12, 12))
    assert torch.equal(larger.get_parameter(name), expected)


def test_a_round_trip_through_microsofts_format_changes_no_bit(run_dir: Path, tmp_path: Path) -> None:
    first = convert(ConvertOptions(run_dir, tmp_path / "first", role="dual")).path
    options = ConvertOptions(first, tmp_path / "ours", from_="beit3", num_heads=6)
    convert(options)
    again = convert(ConvertOptions(tmp_path / "ours", tmp_path / "again", "beit3", "safetensors", role="dual")).path
    one, other = (torch.load(path, weights_only=True)["model"] for path in (first, again))
    assert set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["beit3.encoder.layers.2.ffn.B.fc1.bias", "mlm_head.weight"])
def test_a_file_that_differs_is_detected(run_dir: Path, tmp_path: Path, name: str) -> None:
    path = convert(ConvertOptions(run_dir, tmp_path)).path
    content = torch.load(path, weights_only=True)
    content["model"][name][0] += 1e-4
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"beit3_fusion.pth does not hold the {name}"):
        largest_difference(Beit3Target("fusion"), checkpoint_source([run_dir]), path)


def test_a_verification_that_fails_leaves_nothing(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.conversion.export_folder.TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="differs from its source by"):
        convert(ConvertOptions(run_dir, tmp_path / "out", to="timm"))
    assert not (tmp_path / "out").exists()


def test_a_result_is_not_written_over_other_files(run_dir: Path, tmp_path: Path) -> None:
    convert(ConvertOptions(run_dir, tmp_path, to="safetensors"))
    for options in (
        ConvertOptions(tmp_path, tmp_path, to="timm", from_="safetensors"),
        ConvertOptions(run_dir, run_dir, to="safetensors"),
        ConvertOptions(run_dir, find_checkpoint(run_dir).folder / "export"),  # the checkpoint would be refused later
    ):
        with pytest.raises(ValueError, match="give another folder"):
            convert(options)
    load_network(tmp_path)
    path = convert(ConvertOptions(tmp_path, tmp_path, from_="safetensors")).path  # added to our own file
    assert path.is_file() and (tmp_path / "text_tokenizer.spm").is_file()


def test_the_card_gives_the_number_of_heads(run_dir: Path, tmp_path: Path) -> None:
    path = convert(ConvertOptions(run_dir, tmp_path)).path
    convert(ConvertOptions(path, tmp_path / "ours", from_="beit3"))
    assert load_network(tmp_path / "ours").encoder.config.num_heads == 6
    with pytest.raises(ValueError, match="has 6 heads, --num-heads is 12"):
        convert(ConvertOptions(path, tmp_path / "ours", from_="beit3", num_heads=12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "timm", "role": "fusion"}, "role 'fusion' cannot be exact; use --role vision"),
        ({"to": "safetensors", "role": "dual"}, "leave out --role"),
        ({"image_size": 50}, "patch_size 8 must divide image_size 50"),
        ({"source": Path("nowhere")}, "nowhere does not exist; give a run folder"),
        ({"from_": "beit3", "source": Path("nowhere.pth")}, "nowhere.pth does not exist"),
        ({"num_heads": 6}, "--num-heads is for --from beit3"),
        ({"new_heads": True}, "--new-heads is for --from beit3"),
        ({"num_visual_tokens": 8}, "--num-visual-tokens is for --new-heads"),
        ({"num_heads": 0, "from_": "beit3"}, "num.heads 0 "),
        ({"image_size": 0}, "image.size 0 "),
        ({"image_size": 1 << 40}, "image.size 1099511627776 "),
        ({"to": "timm", "trim_vocab": True}, "leave out --trim-vocab"),
        ({"from_": "safetensors"}, "config.json does not exist|is not the configuration of an Imglish network"),
    ],
)
def test_wrong_options_are_refused(run_dir: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(replace(ConvertOptions(run_dir, tmp_path / "out"), **options))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_training_starts_from_converted_weights(run_dir: Path, tiny_data: TinyData, tmp_path: Path) -> None:
    """Convert Microsoft's file -> ours -> a run that starts from those weights -> Microsoft's file."""
    path = convert(ConvertOptions(run_dir, tmp_path / "theirs", role="dual")).path
    convert(ConvertOptions(path, tmp_path / "ours", from_="beit3", num_heads=6))
    arguments = ["demo", *tiny_data.overrides(tmp_path / "run"), "--initial-weights", tmp_path / "ours"]
    arguments += ["--num-steps", 1, "--optimizer.peak-lr", 1e-12, "--optimizer.min-lr", 0, "--precision", "bfloat16"]
    arguments += ["--model.attention", "decoupled", "--model.num-vl-layers", 0]
    ended = run_ranks(2, "pretrain.train", arguments)
    assert ended.exit_codes == [0, 0], ended.stderr
    assert "rows of words: 42" in ended.stdout[0] and "set --model.vocab-size 102, or" in ended.stdout[0]
    weights = dict(checkpoint_weights(find_checkpoint(tmp_path / "run")))
    begin = load_network(tmp_path / "ours")
    torch.testing.assert_close(weights, dict(begin.state_dict()), atol=1e-9, rtol=0)
    assert read_log(tmp_path / "run")[0]["loss"] > 0
    difference = convert(ConvertOptions(tmp_path / "run", tmp_path / "exported")).largest_difference
    assert difference is not None and difference <= TOLERANCE


def check_start(config: PretrainConfig) -> None:
    assert config.initial_weights is not None and config.data.text_tokenizer is not None
    found = open_initial_weights(config.initial_weights, config.model)
    check_initial_weights(found, config.model, config.data.text_tokenizer)


def test_weights_that_are_not_for_a_run_are_refused(run_dir: Path, tmp_path: Path) -> None:
    convert(ConvertOptions(run_dir, tmp_path, to="safetensors"))
    config = replace(find_checkpoint(run_dir, PretrainConfig).config, initial_weights=tmp_path)
    check_start(config)
    larger = replace(config, model=replace(config.model, depth=4, attention="decoupled"))
    with pytest.raises(ValueError, match="model.depth is 3 there, 4 here; model.attention is shared there, decoupled"):
        check_start(larger)
    (tmp_path / "text_tokenizer.spm").unlink()
    other = replace(config, data=replace(config.data, text_tokenizer=tmp_path / "config.json"))
    with pytest.raises(
        ValueError, match="its words are those of a text tokenizer with SHA-256 .*, not of .*config.json"
    ):
        check_start(other)
    with pytest.raises(ValueError, match="model.safetensors is one file of an export; give its folder"):
        check_start(replace(config, initial_weights=tmp_path / "model.safetensors"))


def test_no_weight_of_the_run_is_zero(run_dir: Path) -> None:
    """Check the weights, because the comparisons above would also pass if all were zero."""
    weights = dict(checkpoint_weights(find_checkpoint(run_dir)))
    assert set(weights) == set(tiny_model().state_dict())
    assert all(tensor.abs().max() > 0 for tensor in weights.values())


def test_a_contrastive_run_is_converted_to_every_format(contrast_run: Path, tmp_path: Path) -> None:
    expected = dict(checkpoint_weights(find_checkpoint(contrast_run)))
    ours = convert(ConvertOptions(contrast_run, tmp_path / "ours", to="safetensors"))
    theirs = convert(ConvertOptions(contrast_run, tmp_path / "theirs", image_size=64, trim_vocab=True))
    tower = convert(ConvertOptions(contrast_run, tmp_path / "tower", to="timm"))
    for converted in (ours, theirs, tower):
        assert converted.largest_difference is not None and converted.largest_difference <= TOLERANCE
        assert converted.card["heads"] == {"logit_bias": True, "masked_data": True}
        found = read_preprocessing(converted.path.parent)
        assert found is not None and found.tokenizer == "text_tokenizer.spm"
        data = find_checkpoint(contrast_run, ContrastConfig).config.data
        assert found.text_length == found.caption_length == data.caption_length
    network = load_network(tmp_path / "ours")
    assert isinstance(network, DualEncoder) and network.heads == DualHeads(logit_bias=True, masked_data=True)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())
    assert theirs.path.name == "beit3_dual.pth" and theirs.card["role"] == "dual"
    names = torch.load(theirs.path, weights_only=True)["model"].keys()
    assert {name for name in names if not name.startswith("beit3.")} == set(DUAL_PARTS)
    for said in ("logit_bias", "mim_head and mlm_head, are left out", "vision-language experts of the top"):
        assert said in report(theirs) and said in (tmp_path / "theirs" / "README.md").read_text()
        assert said not in report(ours)


def test_averages_of_a_contrastive_run_are_converted(contrast_run: Path, tmp_path: Path) -> None:
    ema = convert(ConvertOptions(contrast_run, tmp_path / "ema", weights="ema"))
    first, last = sorted((contrast_run / "checkpoints").glob("step_*"))
    mean = convert(ConvertOptions(last, tmp_path / "mean", to="safetensors", average=(first,)))
    weights = [dict(checkpoint_weights(find_checkpoint(folder))) for folder in (first, last)]
    found = load_network(tmp_path / "mean").state_dict()
    for name in ("logit_scale", "logit_bias", "vision_head.weight"):
        assert not torch.equal(weights[0][name], weights[1][name])
        torch.testing.assert_close(found[name], (weights[0][name] + weights[1][name]) / 2)
    assert None not in (ema.largest_difference, mean.largest_difference)
    average = dict(checkpoint_weights(find_checkpoint(contrast_run), weights="ema"))
    assert torch.equal(torch.load(ema.path, weights_only=True)["model"]["logit_scale"], average["logit_scale"])


def test_a_contrastive_run_is_opened_for_use(contrast_run: Path) -> None:
    opened = open_network(contrast_run)
    assert isinstance(opened.network, DualEncoder) and opened.tokenizer is not None
    assert opened.preprocessing.text_length == opened.preprocessing.caption_length


def test_what_a_dual_encoder_is_not_for_is_refused(contrast_run: Path, two_ranks: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="a dual encoder encodes images and texts apart, never as pairs; use --role dual"
    ):
        convert(ConvertOptions(contrast_run, tmp_path / "out", role="fusion"))
    with pytest.raises(ValueError, match="one is a checkpoint of pretraining, the other of contrastive training"):
        convert(ConvertOptions(contrast_run, tmp_path / "out", average=(two_ranks,)))
