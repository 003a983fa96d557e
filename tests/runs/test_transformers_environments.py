"""Folders for transformers, used in fresh environments that have transformers but not Imglish. CPU, minutes.

torch is not downloaded again: the environments see the torch of this one by links to its packages alone.
"""

import json
import os
import subprocess
import venv
from dataclasses import replace
from importlib.metadata import distribution, version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.images.transform import ImageTransform
from data_pipeline.texts.tokenizer import TextTokenizer
from model.captioner import CaptionRules, greedy_captions
from model.config import DualHeads
from model.dual_encoder import DualEncoder
from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayInputs
from pretrain.conversion.verify import TOLERANCE
from pretrain.jobs.visual_tokens import network_view
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model
from tests.support.tiny_run import TinyData
from tests.support.transformers_folders import TEXT, tiny_dual_encoder, write_folder

pytestmark = pytest.mark.slow

TEXTS = ["a red circle", "", "  many   spaces ", "中文 العربية 🙂👩\u200d👧", "word " * 40, "\t\x00\u200b"]
PROGRAM = """
import importlib.util, json, sys
assert not any(importlib.util.find_spec(name) for name in ("model", "pretrain", "data_pipeline", "deepspeed"))
import numpy as np, torch, transformers
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoProcessor, pipeline
work, folder = sys.argv[1:]
trusted = {"trust_remote_code": True}
inputs, found = torch.load(f"{work}/inputs.pt"), {}
model, processor = AutoModel.from_pretrained(folder, **trusted).eval(), AutoProcessor.from_pretrained(folder, **trusted)
image, texts = Image.open(f"{work}/image.png"), json.load(open(f"{work}/texts.json"))
with torch.no_grad():
    for use, given in inputs.items():
        found[use] = model(**given).last_hidden_state
    if model.config.contrastive_heads:
        found["image features"] = model.get_image_features(inputs["image"]["pixel_values"])
        text = {name: inputs["text"][name] for name in ("input_ids", "attention_mask")}
        found["text features"] = model.get_text_features(**text)
        classify = pipeline("zero-shot-image-classification", model=folder, device="cpu", **trusted)
        labels = ["a red circle", "a blue square"]
        scores = classify(image, candidate_labels=labels, hypothesis_template="{}")
        assert len(scores) == 2 and abs(sum(score["score"] for score in scores) - 1) < 1e-4
    else:
        masked = AutoModelForMaskedLM.from_pretrained(folder, **trusted).eval()
        assert torch.equal(masked.mlm_head.weight, model.mlm_head.weight)
        found["captions"] = model.caption(inputs["image"]["pixel_values"], 10)
    found["pixels"] = processor(images=image)["pixel_values"]
    found["ids"] = processor(text=texts, padding="max_length")["input_ids"]
    found["caption ids"] = processor(images=image, text=texts, padding="max_length")["input_ids"]
    model.save_pretrained(f"{work}/again")
    processor.save_pretrained(f"{work}/again")
    again, inputs_again = (kind.from_pretrained(f"{work}/again", **trusted) for kind in (AutoModel, AutoProcessor))
    assert torch.equal(again.eval()(**inputs["pair"]).last_hidden_state, found["pair"])
    both = {"images": image, "text": texts}
    assert torch.equal(inputs_again(**both)["input_ids"], processor(**both)["input_ids"])
    assert AutoConfig.from_pretrained(f"{work}/again", **trusted).to_dict()["hidden_size"] == model.config.hidden_size
torch.save(found, f"{work}/found.pt")
print(transformers.__version__)
"""


IMAGE = np.random.default_rng(0).integers(0, 256, (57, 83, 3), dtype=np.uint8)


def linked_torch(folder: Path) -> None:
    """Fill a folder with links to torch and nothing else of this environment."""
    files = distribution("torch").files or []
    for name in {file.parts[0] for file in files} - {"..", "bin", "__pycache__"}:
        (folder / name).symlink_to(Path(str(distribution("torch").locate_file(name))).resolve())


@pytest.fixture(scope="module", params=[f"transformers=={version('transformers')}", "transformers>=5"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a fresh environment with transformers. Skipped if no index of packages is reached."""
    folder: Path = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    torch_alone = folder / "torch_alone"
    torch_alone.mkdir()
    linked_torch(torch_alone)
    (site_packages,) = folder.glob("lib/python3*/site-packages")
    (site_packages / "torch.pth").write_text(f"{torch_alone}\n")
    wanted = [request.param, f"pillow=={version('pillow')}", "sentencepiece", "sympy", "networkx", "jinja2", "fsspec"]
    command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip(f"pip cannot install {request.param} here: {ended.stderr[-300:]}")
    return python


def inputs_by_use(inputs: MultiwayInputs) -> dict[str, dict[str, torch.Tensor]]:
    """Return images, texts and pairs of a packed step with as many of each, as a Beit3Model takes them."""
    num_pairs = len(inputs.caption_ids)
    images, pair_images = inputs.images.split([num_pairs, num_pairs])
    mask, pair_mask = inputs.image_mask.split([num_pairs, num_pairs])
    text = {"input_ids": inputs.text_ids, "attention_mask": (~inputs.text_padding).long()}
    caption = {"input_ids": inputs.caption_ids, "attention_mask": (~inputs.caption_padding).long()}
    return {
        "image": {"pixel_values": images, "image_mask": mask},
        "text": text,
        "pair": {"pixel_values": pair_images, "image_mask": pair_mask, **caption},
    }


@torch.no_grad()
@pytest.mark.parametrize("kind", ["masked data", "dual encoder"])
def test_a_fresh_environment_computes_the_same_without_imglish(
    kind: str, python: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    network: MaskedDataModel | DualEncoder = (
        tiny_model(vocab_size=120, attention="decoupled")
        if kind == "masked data"
        else tiny_dual_encoder(DualHeads(logit_bias=True), vocab_size=120)
    )
    tokenizer = tiny_data.folder / "text_tokenizer.spm"
    folder = tmp_path / "folder"
    folder.mkdir()
    write_folder(network, folder, tokenizer)
    inputs = tiny_inputs(3, 3, 3)
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    torch.save(inputs_by_use(inputs), tmp_path / "inputs.pt")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(python), "-c", PROGRAM, str(tmp_path), str(folder)]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = torch.load(tmp_path / "found.pt")

    states = network.encoder(inputs)
    image_length = states.images.shape[1]
    pairs = found["pair"].split([image_length, states.captions.shape[1]], dim=1)
    is_caption, is_text = ~inputs.caption_padding, ~inputs.text_padding
    equal(states.images, torch.cat([found["image"], pairs[0]]))
    equal(states.captions[is_caption], pairs[1][is_caption])
    equal(states.texts[is_text], found["text"][is_text])
    ours = TextTokenizer(tokenizer)
    assert TEXT.text_length is not None and TEXT.caption_length is not None
    assert found["ids"].tolist() == [ours.encode_to_length(text, TEXT.text_length) for text in TEXTS]
    assert found["caption ids"].tolist() == [ours.encode_to_length(text, TEXT.caption_length) for text in TEXTS]
    transform = ImageTransform(CONFIG.image_size, 1.0, 0.0, False, 10**6)
    pixels = torch.from_numpy(transform.center((tmp_path / "image.png").read_bytes()))
    assert torch.equal(found["pixels"], network_view(pixels[None], CONFIG.image_size))
    if isinstance(network, DualEncoder):
        whole = tiny_inputs(3, 0, 3)
        whole = replace(whole, images=inputs.images[:3], image_mask=whole.image_mask & False)
        whole = replace(whole, text_ids=inputs.text_ids, text_padding=inputs.text_padding)
        features = network.features(whole)
        equal(features.images, found["image features"])
        equal(features.texts, found["text features"])
    else:
        rules = CaptionRules(begin_id=0, end_id=2, pad_id=1, mask_id=ours.mask_id, max_length=10)
        assert torch.equal(found["captions"], greedy_captions(network, inputs.images[:3], rules).ids)


def equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= TOLERANCE
