"""Commands of the documentation are commands of the project."""

import re
import shlex

import pytest
import tyro

from data_pipeline.check_shards import CheckOptions
from data_pipeline.index_shards import IndexOptions
from data_pipeline.train_text_tokenizer import TextTokenizerOptions
from data_pipeline.write_shards import ShardOptions
from pretrain.conversion.options import ConvertOptions
from pretrain.evaluation.options import MaskedPatchesOptions, MaskedWordsOptions
from tests.support.launch import ROOT

OPTIONS = {
    "data_pipeline.write_shards": ShardOptions,
    "data_pipeline.index_shards": IndexOptions,
    "data_pipeline.check_shards": CheckOptions,
    "data_pipeline.train_text_tokenizer": TextTokenizerOptions,
    "pretrain.convert": ConvertOptions,
    "pretrain.masked_patches": MaskedPatchesOptions,
    "pretrain.masked_words": MaskedWordsOptions,
}
DOCUMENTS = ("README.md", "data_pipeline/README.md", "docs/exports.md")


def commands() -> list[list[str]]:
    """The words after `python -m` of every line of a bash block."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", (ROOT / document).read_text(), re.DOTALL):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words[:2] == ["python", "-m"] and words[2] in OPTIONS:
                    found.append(words[2:])
    return found


def test_the_documentation_has_commands() -> None:
    assert len(commands()) >= 15 and {command[0] for command in commands()} == set(OPTIONS)


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_a_documented_command_has_valid_options(command: list[str]) -> None:
    tyro.cli(OPTIONS[command[0]], args=command[1:])


def test_every_target_of_make_in_the_documentation_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {
        name for document in DOCUMENTS for name in re.findall(r"\bmake ([a-z-]+)`", (ROOT / document).read_text())
    }
    targets |= set(re.findall(r"^    make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert targets >= {"install", "demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
