"""Finetuned networks in Microsoft's format: keys, sizes, and logits of their classes, both ways. CPU, seconds."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import CaptionHead, ClassHead, DualHeads, Heads, MultiwayConfig, Nlvr2Head, TaskHead, VqaHead
from model.multiway import MultiwayInputs
from model.networks import TaskNetworks
from model.parameter_counts import parameter_shapes
from model.task_networks import build_task_network
from pretrain.checkpoints.weights import model_of
from pretrain.formats.beit3 import beit3_entries, decoupled, decoupled_weights, file_entries
from pretrain.formats.beit3_contents import config_of
from pretrain.formats.beit3_file import save_beit3
from pretrain.formats.beit3_loaders import torchscale_arguments
from pretrain.formats.beit3_tasks import ROLES, heads_of, in_words, left_out
from tests.pretrain.formats.test_beit3_contents import pretrained_state, tuned_state
from tests.pretrain.formats.test_beit3_dual import BASE, LARGE, PACKAGES, TOLERANCE, VARIANTS
from tests.support.launch import ON_CPU, ROOT, python_path
from tests.support.their_tasks import TheirTaskNetwork, their_task_network
from tests.support.tiny import CONFIG, TINY_HEADS, tiny_task_inputs, tiny_task_network


def entries_of(network: TaskNetworks) -> dict[str, Tensor]:
    """Return the tensors of a file with the text positions of the tiny network, which their code cannot have."""
    role = ROLES[network.heads.TASK]
    return dict(beit3_entries(network.state_dict().items(), network.encoder.config, role, network.heads))


def file_of(network: TaskNetworks) -> dict[str, Tensor]:
    role = ROLES[network.heads.TASK]
    return dict(file_entries(network.state_dict().items(), network.encoder.config, role, network.heads))


def without_padding(logits: Tensor, heads: TaskHead, inputs: MultiwayInputs) -> Tensor:
    """Return logits without those at padding: torchscale computes states for it, we have no rows."""
    return logits[~inputs.caption_padding] if isinstance(heads, CaptionHead) else logits


def changed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same with every element changed, so that zeros and ones matter too."""
    generator = torch.Generator().manual_seed(0)
    return {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("heads", TINY_HEADS, ids=str)
@torch.no_grad()
def test_logits_are_those_of_their_class(heads: TaskHead, variant: str, is_padded: bool) -> None:
    network, inputs = tiny_task_network(heads, **VARIANTS[variant]), tiny_task_inputs(heads)
    padding = inputs.caption_padding if is_padded else torch.zeros_like(inputs.caption_padding)
    assert bool(padding.any()) == (is_padded and heads != ClassHead(5))
    inputs = replace(inputs, caption_padding=padding)
    logits = network(inputs)
    assert logits.abs().max() > 0.3
    theirs = their_task_network(CONFIG, heads, entries_of(network)).logits(inputs)
    ours, theirs = (without_padding(each, heads, inputs) for each in (logits, theirs))
    torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("heads", TINY_HEADS, ids=str)
def test_a_file_has_exactly_their_keys_and_names_its_heads(heads: TaskHead, variant: str) -> None:
    state = file_of(tiny_task_network(heads, **VARIANTS[variant]))
    expected = {name: tensor.shape for name, tensor in TheirTaskNetwork(CONFIG, heads, 1024).state_dict().items()}
    assert {name: tensor.shape for name, tensor in state.items()} == expected
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert heads_of(state) == heads


@pytest.mark.parametrize("heads", TINY_HEADS, ids=str)
@torch.no_grad()
def test_their_file_becomes_our_network_and_their_file_again_without_a_changed_bit(heads: TaskHead) -> None:
    state = changed(TheirTaskNetwork(CONFIG, heads).state_dict())
    config, found = config_of(state, CONFIG.num_heads), heads_of(state)
    assert found == heads
    network = model_of(config, decoupled_weights(dict(state), config, heads=found), found)
    again = entries_of(network)  # type: ignore[arg-type]
    assert again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)
    inputs = tiny_task_inputs(heads)
    pair = (network(inputs), their_task_network(CONFIG, heads, state).logits(inputs))
    ours, theirs = (without_padding(each, heads, inputs) for each in pair)
    torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize(
    ("heads", "config", "count"),
    [
        (VqaHead(), replace(BASE, image_size=480), 228_110_649),
        (VqaHead(), replace(LARGE, image_size=480), 682_985_529),
        (VqaHead(), replace(LARGE, image_size=768), 684_423_225),
        (Nlvr2Head(), BASE, 225_719_810),
        (Nlvr2Head(), LARGE, 681_109_506),
        (CaptionHead(), replace(BASE, image_size=480), 270_751_754),
        (CaptionHead(), replace(LARGE, image_size=480), 739_033_610),
        (DualHeads(), replace(BASE, image_size=384), 222_458_881),
        (DualHeads(), replace(LARGE, image_size=384), 675_188_737),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_files_of_the_released_sizes_have_the_published_number_of_parameters(
    heads: Heads, config: MultiwayConfig, count: int
) -> None:
    """Shared attention, which is written into both branches, gives the same file."""
    shapes = parameter_shapes(config, heads)
    weights = [(name, torch.empty(shape, device="meta")) for name, shape in shapes.items()]
    role = "dual" if isinstance(heads, DualHeads) else ROLES[heads.TASK]
    assert sum(tensor.numel() for _, tensor in file_entries(weights, config, role, heads)) == count
    assert sum(shape.numel() for shape in parameter_shapes(decoupled(config), heads).values()) == count


def test_other_files_hold_no_finetuned_network() -> None:
    assert heads_of(pretrained_state()) is None
    assert heads_of(tuned_state("retrieval")) == DualHeads()
    assert heads_of(tuned_state("captioning")) == CaptionHead()
    vqa = file_of(tiny_task_network(VqaHead(7)))
    for name in ("pooler.dense.weight", "head.3.weight"):
        assert heads_of({each: value for each, value in vqa.items() if each != name}) is None
    assert heads_of(tuned_state("captioning") | {"mim_head.weight": torch.ones(3, CONFIG.dim)}) is None


@pytest.mark.parametrize("name", ["pooler.norm.bias", "head.1.weight", "beit3.encoder.layers.1.ffn.B.fc2.bias"])
def test_a_part_that_is_missing_or_of_another_shape_is_named(name: str) -> None:
    heads, state = VqaHead(7), file_of(tiny_task_network(VqaHead(7)))
    config = config_of(state, CONFIG.num_heads, CONFIG.max_text_length)
    lacking = {each: value for each, value in state.items() if each != name}
    with pytest.raises(ValueError, match=f"beit3_vqa.pth has no {name}: it is not a whole BEiT-3"):
        dict(decoupled_weights(lacking, config, owner="beit3_vqa.pth", heads=heads))
    with pytest.raises(ValueError, match=rf"beit3_vqa.pth has \(3,\) for {name}, expected"):
        dict(decoupled_weights(state | {name: torch.ones(3)}, config, owner="beit3_vqa.pth", heads=heads))
    with pytest.raises(ValueError, match="beit3_vqa.pth has parameters without a place here: extra"):
        dict(decoupled_weights(state | {"extra": torch.ones(3)}, config, owner="beit3_vqa.pth", heads=heads))


def test_a_head_of_an_impossible_shape_is_refused() -> None:
    state = file_of(tiny_task_network(ClassHead(5)))
    with pytest.raises(ValueError, match=r"beit3_in1k.pth has \(\) for head.weight, expected 2 dimensions"):
        heads_of(state | {"head.weight": torch.ones(())}, "beit3_in1k.pth")


def test_what_their_format_has_no_place_for_is_named() -> None:
    assert left_out(replace(CONFIG, num_vl_layers=0), VqaHead()) == []
    (pairs,) = left_out(replace(CONFIG, num_vl_layers=2), VqaHead())
    (images,) = left_out(replace(CONFIG, num_vl_layers=2), ClassHead())
    assert pairs.startswith("the vision and language experts of the top 2 layers are left out: image-text pairs")
    assert images.startswith("the vision-language experts of the top 2 layers are left out: images alone")
    assert in_words(VqaHead(7)) == "finetuned for vqa, with 7 answers" and in_words(DualHeads()) == "a dual encoder"
    assert in_words(ClassHead(5)).endswith("with 5 classes") and in_words(Nlvr2Head()) == "finetuned for nlvr2"


@pytest.fixture(scope="module")
def microsofts_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install their code into a folder of its own; skip without a network."""
    packages: Path = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages), *PACKAGES]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"{' and '.join(PACKAGES)} cannot be installed: {installed.stderr.strip().splitlines()[-1]}")
    return packages


def case_of(network: TaskNetworks, inputs: MultiwayInputs, file: Path) -> dict[str, Any]:
    """Write a file of a network and return what tests.support.their_logits needs besides their class."""
    task, config = network.heads.TASK, network.encoder.config
    save_beit3(network.state_dict().items(), config, ROLES[task], file, heads=network.heads)
    texts = {"ids": inputs.caption_ids, "padding": inputs.caption_padding.long()}
    return {"task": task, "file": str(file), "images": inputs.images, **texts}


def their_logits(packages: Path, cases: dict[str, Any], folder: Path) -> dict[str, Tensor]:
    """Return the logits of Microsoft's classes, computed by a process of its own, by the names of the cases."""
    torch.save(cases, folder / "cases.pth")
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.their_logits", packages, folder / "cases.pth", folder / "logits.pth"],
        env={**os.environ, **ON_CPU, "PYTHONPATH": python_path()},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Tensor] = torch.load(folder / "logits.pth", weights_only=True)
    return found


@torch.no_grad()
def check_close(name: str, network: TaskNetworks, inputs: MultiwayInputs, theirs: Tensor) -> None:
    ours, theirs = (without_padding(each, network.heads, inputs) for each in (network(inputs), theirs))
    difference = (theirs - ours).abs().max().item()
    print(f"{name}: largest difference {difference:.1e} of logits up to {theirs.abs().max().item():.1f}")
    assert difference <= TOLERANCE["atol"]


@pytest.mark.slow
def test_logits_are_those_of_microsofts_own_classes(microsofts_code: Path, tmp_path: Path) -> None:
    cases: dict[str, Any] = {}
    networks: dict[str, TaskNetworks] = {}
    for heads in TINY_HEADS:
        num_classes = {"vqa": 7, "nlvr2": 2, "classify": 5}.get(heads.TASK, 0)
        theirs = {"torchscale": torchscale_arguments(CONFIG, heads.FINAL_NORM), "num_classes": num_classes}
        for variant, changes in VARIANTS.items():
            name = f"{heads.TASK}_{variant}"
            networks[name] = tiny_task_network(heads, **changes)
            cases[name] = case_of(networks[name], tiny_task_inputs(heads), tmp_path / f"{name}.pth") | theirs
    found = their_logits(microsofts_code, cases, tmp_path)
    for name, network in networks.items():
        check_close(name, network, tiny_task_inputs(network.heads), found[name])


@pytest.mark.slow  # 2 GiB of memory
@pytest.mark.parametrize(
    ("model", "heads", "image_size"),
    [
        ("beit3_base_patch16_480_vqav2", VqaHead(), 480),
        ("beit3_base_patch16_224_nlvr2", Nlvr2Head(), 224),
        ("beit3_base_patch16_480_captioning", CaptionHead(), 480),
        ("beit3_base_patch16_224_imageclassification", ClassHead(), 224),
    ],
)
def test_a_file_of_the_published_size_is_loaded_by_the_model_that_they_register(
    model: str, heads: TaskHead, image_size: int, microsofts_code: Path, tmp_path: Path
) -> None:
    config = replace(BASE, image_size=image_size)
    with torch.device("meta"):
        network = build_task_network(config, heads).eval()
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.state_dict().items():  # about as large as after training
            is_norm_weight = parameter.ndim == 1 and name.endswith(".weight")
            parameter.normal_(float(is_norm_weight), 0.02 if parameter.ndim > 1 else 0.1, generator=generator)
    small = tiny_task_inputs(heads)
    images = torch.randn(len(small.images), 3, image_size, image_size, generator=generator)
    mask = torch.zeros(len(images), config.num_patches, dtype=torch.bool)
    inputs = replace(small, images=images, image_mask=mask)
    case = case_of(network, inputs, tmp_path / "beit3.pth") | {"model": model}
    check_close(model, network, inputs, their_logits(microsofts_code, {model: case}, tmp_path)[model])
