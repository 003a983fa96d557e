"""Python lines of README.md beside a finetuned file, as typed by a user. CPU, seconds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import CaptionHead, ClassHead, Nlvr2Head, TaskHead
from model.pretrained import save_network
from pretrain.conversion.beit3_lines import python_lines
from pretrain.conversion.convert import convert, report
from pretrain.conversion.options import ConvertOptions
from tests.support.beside_cpu_torch import import_beside_cpu_torch
from tests.support.tiny import CONFIG, TINY_HEADS, tiny_task_inputs, tiny_task_network


@pytest.mark.parametrize("heads", TINY_HEADS, ids=str)
def test_the_lines_compute_the_logits_of_the_network(
    heads: TaskHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = tiny_task_network(heads), tiny_task_inputs(heads)
    (tmp_path / "ours").mkdir()
    save_network(dict(network.state_dict()), CONFIG, tmp_path / "ours", heads=heads)
    converted = convert(ConvertOptions(tmp_path / "ours", tmp_path / "out", "beit3", "safetensors"))
    assert converted.largest_difference is not None and converted.largest_difference <= 2e-5
    card = json.loads(converted.path.with_suffix(".json").read_text())
    assert card["heads"] == {"task": heads.TASK, **vars(heads)}
    assert python_lines(card) in (tmp_path / "out" / "README.md").read_text()
    assert "experts of the top 1 layers are left out" in report(converted)
    import_beside_cpu_torch("timm")  # like the first documented line
    monkeypatch.chdir(tmp_path / "out")
    names: dict[str, Any] = {}
    exec(python_lines(card), names)
    texts = (inputs.caption_ids, inputs.caption_padding)
    arguments: tuple[torch.Tensor, ...] = (inputs.images, *texts)
    if isinstance(heads, ClassHead):
        arguments = (inputs.images,)
    if isinstance(heads, Nlvr2Head):
        arguments = (*inputs.images.chunk(2), *(each[:2] for each in texts))
    with torch.no_grad():
        pair = (names["logits"](*arguments), network(inputs))
    found, expected = (each[~texts[1]] if isinstance(heads, CaptionHead) else each for each in pair)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
