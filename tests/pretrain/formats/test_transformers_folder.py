"""Configuration and settings of a folder for transformers. CPU, seconds."""

import json
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from model.config import MultiwayConfig
from pretrain.formats.transformers_folder import (
    FIELDS,
    TextSettings,
    check_transformers,
    heads_in,
    import_code,
    write_config,
)
from tests.support.tiny import CONFIG, tiny_model
from tests.support.transformers_folders import write_folder

MASKED_DATA = {"masked_data_heads": True, "contrastive_heads": False, "logit_bias": False}


def test_every_field_of_the_network_is_in_the_configuration(tmp_path: Path) -> None:
    not_named_alike = {"attention", "embed_init_std"}  # the latter matters to a network from scratch only
    assert {field.name for field in fields(MultiwayConfig)} - not_named_alike == set(FIELDS)
    write_folder(tiny_model(), tmp_path)
    config = import_code(tmp_path, "configuration_beit3").Beit3Config.from_pretrained(tmp_path)
    assert all(getattr(config, theirs) == getattr(CONFIG, ours) for ours, theirs in FIELDS.items())
    assert not config.decoupled_attention and config.masked_data_heads and not config.contrastive_heads
    assert (config.bos_token_id, config.pad_token_id, config.eos_token_id, config.mask_token_id) == (0, 1, 2, 49)


def test_the_classes_that_are_named_have_the_heads_that_they_need(tmp_path: Path) -> None:
    names = [["mlm_head.weight"], ["vision_head.weight", "logit_bias"]]
    heads = [heads_in(each) for each in names]
    assert heads == [MASKED_DATA, {"masked_data_heads": False, "contrastive_heads": True, "logit_bias": True}]
    common, found = {"AutoConfig", "AutoModel"}, []
    for each in heads:
        write_config(replace(CONFIG, attention="decoupled"), each, TextSettings(40, None, None), tmp_path)
        values = json.loads((tmp_path / "config.json").read_text())
        assert values["decoupled_attention"] and values["mask_token_id"] == 39
        found.append(set(values["auto_map"]) - common)
    assert found == [{"AutoModelForMaskedLM"}, {"AutoModelForZeroShotImageClassification"}]


def test_importing_the_code_leaves_nothing_behind(tmp_path: Path) -> None:
    write_folder(tiny_model(), tmp_path)
    before = sorted(tmp_path.iterdir())
    import_code(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_library_is_reported_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ValueError,
        match=r"transformers is needed here \(.*\); pip install -c constraints.txt transformers, or pass --no-ver",
    ):
        check_transformers()
