"""BEiT-3 by the code that is copied for transformers, compared with ours. CPU, seconds; marked slow: a minute."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from model.captioner import CaptionRules, greedy_captions
from model.config import DualHeads
from model.multiway import MultiwayInputs
from pretrain.conversion.verify import TOLERANCE
from pretrain.formats.transformers_folder import CODE_FOLDER, import_code, states_of
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model
from tests.support.transformers_folders import load_folder, tiny_dual_encoder, without_padding, write_folder

MAX_LINES = 400
KINDS = {"images": (3, 0, 0), "pairs": (0, 3, 0), "texts": (0, 0, 3), "all at once": (2, 3, 2)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the weights of `tiny_model()`. Read only."""
    path: Path = tmp_path_factory.mktemp("transformers")
    write_folder(tiny_model(), path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_folder(folder)


def differences(ours: list[Tensor], theirs: list[Tensor]) -> list[float]:
    return [(a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)]


@torch.no_grad()
@pytest.mark.parametrize("attention", ["shared", "decoupled"])
@pytest.mark.parametrize("num_vl_layers", [0, 1, 3])
def test_hidden_states_equal_ours_for_every_kind_of_sample_padding_and_masks(
    attention: Literal["shared", "decoupled"], num_vl_layers: int, tmp_path: Path
) -> None:
    network = tiny_model(attention=attention, num_vl_layers=num_vl_layers)
    write_folder(network, tmp_path)
    theirs = load_folder(tmp_path)
    for counts in KINDS.values():
        for is_masked in (True, False):
            inputs = tiny_inputs(*counts)
            inputs = replace(inputs, image_mask=inputs.image_mask & is_masked)
            expected = without_padding(inputs, network.encode(inputs))
            found = without_padding(inputs, states_of(theirs, inputs))
            assert max(differences(expected, found)) <= TOLERANCE


@torch.no_grad()
def test_images_of_another_size_have_interpolated_positions(model: Any) -> None:
    inputs = tiny_inputs(2, 0, 0)
    larger = replace(inputs, images=torch.randn(2, 3, 48, 40), image_mask=torch.zeros(2, 30, dtype=torch.bool))
    expected = tiny_model().encode(larger).images
    assert (model(larger.images).last_hidden_state - expected).abs().max() <= TOLERANCE
    with pytest.raises(ValueError, match="images are 30 x 32; resize them to multiples of patch_size 8"):
        model(torch.randn(1, 3, 30, 32))


@torch.no_grad()
def test_padding_is_not_seen_and_no_mask_means_no_padding(model: Any) -> None:
    ids, mask = torch.randint(4, 50, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    whole = model(input_ids=ids).last_hidden_state
    assert torch.equal(whole, model(input_ids=ids, attention_mask=mask).last_hidden_state)
    mask[:, 6:] = 0
    others = torch.cat([ids[:, :6], torch.randint(4, 50, (2, 3))], dim=1)
    first, second = (model(input_ids=x, attention_mask=mask).last_hidden_state[:, :6] for x in (ids, others))
    assert torch.equal(first, second) and (first - whole[:, :6]).abs().max() > 0.01


@torch.no_grad()
def test_outputs_are_named_as_in_transformers(model: Any) -> None:
    inputs = tiny_inputs(0, 2, 0)
    output = model(inputs.images, inputs.caption_ids, output_hidden_states=True)
    assert torch.equal(torch.cat([output.image_hidden_state, output.text_hidden_state], 1), output.last_hidden_state)
    assert len(output.hidden_states) == CONFIG.depth + 1
    num_image_tokens = CONFIG.num_image_tokens
    assert torch.equal(model.encoder.norm(output.hidden_states[-1], num_image_tokens), output.last_hidden_state)
    assert list(model(inputs.images)) == ["last_hidden_state", "image_hidden_state"]
    (only,) = model(input_ids=inputs.caption_ids, return_dict=False)[:1]
    assert torch.equal(only, model(input_ids=inputs.caption_ids).last_hidden_state)


@torch.no_grad()
def test_heads_of_masked_data_modeling_equal_ours(folder: Path, model: Any) -> None:
    network, inputs = tiny_model(), tiny_inputs(0, 3, 0)
    states = network.encode(inputs)
    found = states_of(model, inputs)
    assert (model.mim_head(found.images[:, 1:]) - network.mim_head(states.images[:, 1:])).abs().max() <= 1e-4
    words, is_word = network.mlm_head(states.captions), ~inputs.caption_padding
    labels = torch.where(is_word, inputs.caption_ids, -100)
    masked = load_folder(folder, "Beit3ForMaskedLM")
    output = masked(
        inputs.caption_ids,
        labels=labels,
        pixel_values=inputs.images,
        attention_mask=is_word.long(),
        image_mask=inputs.image_mask,
    )
    assert (output.logits - words)[is_word].abs().max() <= 1e-4
    expected = nn.functional.cross_entropy(words[is_word], inputs.caption_ids[is_word])
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_captions_equal_ours(model: Any) -> None:
    images = tiny_inputs(4, 0, 0).images
    rules = CaptionRules(begin_id=0, end_id=2, pad_id=1, mask_id=49, max_length=11)
    assert model.config.mask_token_id == 49
    expected = greedy_captions(tiny_model(), images, rules).ids
    assert torch.equal(model.caption(images, 11), expected)
    # an end that all captions reach, so that padding follows it
    model.config.eos_token_id = int(expected[0, 3])
    rules = replace(rules, end_id=model.config.eos_token_id)
    try:
        ended = model.caption(images, 11)
        assert torch.equal(ended, greedy_captions(tiny_model(), images, rules).ids) and (ended == 1).any()
    finally:
        model.config.eos_token_id = 2


@torch.no_grad()
@pytest.mark.parametrize("heads", [DualHeads(), DualHeads(logit_bias=True, masked_data=True)], ids=["softmax", "all"])
def test_features_and_similarities_equal_those_of_our_dual_encoder(heads: DualHeads, tmp_path: Path) -> None:
    network, inputs = tiny_dual_encoder(heads), tiny_inputs(3, 0, 4)
    inputs = replace(inputs, image_mask=torch.zeros_like(inputs.image_mask))
    write_folder(network, tmp_path)
    theirs = load_folder(tmp_path)
    expected = network.features(inputs)
    images = theirs.get_image_features(inputs.images)
    texts = theirs.get_text_features(inputs.text_ids, (~inputs.text_padding).long())
    assert max(differences(list(expected), [images, texts])) <= TOLERANCE
    logits = network.logit_scale.exp() * expected.images @ expected.texts.T
    if network.logit_bias is not None:
        logits = logits + network.logit_bias
    assert (theirs.similarity(images, texts) - logits).abs().max() <= 1e-3  # scaled by exp(2.7)
    classifier = load_folder(tmp_path, "Beit3ForZeroShotImageClassification")
    output = classifier(inputs.images, inputs.text_ids, (~inputs.text_padding).long())
    assert torch.equal(output.logits_per_image, output.logits_per_text.T)
    assert torch.allclose(output.logits_per_image, theirs.similarity(images, texts), atol=1e-5)
    if not heads.masked_data:
        with pytest.raises(ValueError, match="trained without mlm_head; convert a run of the stage that trains it"):
            theirs.caption(inputs.images)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_network_runs_in_half_precision(dtype: torch.dtype, folder: Path, model: Any) -> None:
    inputs = tiny_inputs(0, 2, 0)
    half = load_folder(folder).to(dtype)
    mask = (~inputs.caption_padding).long()
    found = half(inputs.images, inputs.caption_ids, mask, inputs.image_mask).image_hidden_state
    expected = model(inputs.images, inputs.caption_ids, mask, inputs.image_mask).image_hidden_state
    assert found.dtype == dtype and (found.float() - expected).abs().mean() < 0.02


def test_wrong_inputs_and_missing_heads_are_reported_in_one_sentence(model: Any) -> None:
    inputs = tiny_inputs(0, 3, 0)
    for arguments, message in [
        ({}, "neither pixel_values nor input_ids are given"),
        ({"pixel_values": inputs.images[:2], "input_ids": inputs.caption_ids}, "2 images and 3 texts are not pairs"),
        ({"input_ids": torch.zeros(1, 13, dtype=torch.int64)}, "a text of 13 tokens exceeds 12; shorten it"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(**arguments)
    with pytest.raises(ValueError, match="trained without vision_head"):
        model.get_image_features(inputs.images)


def test_a_network_can_be_trained_from_scratch_and_drops_branches(folder: Path) -> None:
    code = import_code(folder)
    config = code.Beit3Config.from_pretrained(folder, drop_path_rate=0.5, contrastive_heads=True)
    network = code.Beit3Model(config)
    inputs: MultiwayInputs = tiny_inputs(0, 16, 0)
    states = network.train()(inputs.images, inputs.caption_ids).last_hidden_state
    states.square().mean().backward()
    assert network.encoder.text_embed.word_embed.weight.grad.abs().sum() > 0
    assert not torch.equal(states, network(inputs.images, inputs.caption_ids).last_hidden_state)
    network.eval()
    first, second = (network(inputs.images, inputs.caption_ids).last_hidden_state for _ in range(2))
    assert torch.equal(first, second)
    assert network.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    std = network.encoder.blocks[0].experts.vision.fc1.weight.std().item()
    assert 0.2 * CONFIG.init_std < std < CONFIG.init_std  # truncated at one standard deviation


def test_the_file_can_be_read_in_one_sitting_and_is_the_one_in_the_repository(folder: Path) -> None:
    source = (CODE_FOLDER / "modeling_beit3.py").read_text()
    assert len(source.splitlines()) < MAX_LINES and (folder / "modeling_beit3.py").read_text() == source


EXPORTED: dict[str, tuple[str, ...]] = {
    "image": ("pixel_values",),
    "text": ("input_ids", "attention_mask"),
    "pair": ("pixel_values", "input_ids", "attention_mask"),
}


def tower_inputs(tower: str, num_samples: int, length: int) -> dict[str, Tensor]:
    """Return random inputs of a tower, with padding in the last text."""
    ids, mask = torch.randint(4, 50, (num_samples, length)), torch.ones(num_samples, length, dtype=torch.int64)
    mask[-1, length // 2 :] = 0
    images = torch.randn(num_samples, 3, CONFIG.image_size, CONFIG.image_size)
    everything = {"pixel_values": images, "input_ids": ids, "attention_mask": mask}
    return {name: everything[name] for name in EXPORTED[tower]}


def dynamic_shapes(tower: str) -> dict[str, Any]:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2, max=CONFIG.max_text_length)
    return {name: {0: batch} if name == "pixel_values" else {0: batch, 1: length} for name in EXPORTED[tower]}


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("tower", EXPORTED)
def test_torch_export_takes_every_tower_with_any_number_of_samples_and_words(tower: str, model: Any) -> None:
    program = torch.export.export(model, (), tower_inputs(tower, 2, 9), dynamic_shapes=dynamic_shapes(tower))
    for num_samples, length in ((1, 5), (5, 12)):
        inputs = tower_inputs(tower, num_samples, length)
        found = program.module()(**inputs).last_hidden_state
        assert (found - model(**inputs).last_hidden_state).abs().max() <= 1e-4


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("tower", EXPORTED)
def test_onnx_runtime_computes_every_tower(tower: str, model: Any, tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    onnxruntime = pytest.importorskip("onnxruntime")
    program = torch.onnx.export(
        model, (), kwargs=tower_inputs(tower, 2, 9), dynamic_shapes=dynamic_shapes(tower), dynamo=True
    )
    assert program is not None
    program.save(tmp_path / "tower.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "tower.onnx")
    inputs = tower_inputs(tower, 5, 12)
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    assert (torch.from_numpy(found) - model(**inputs).last_hidden_state).abs().max() <= 1e-4
