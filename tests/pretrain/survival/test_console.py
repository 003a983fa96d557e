"""Names from other people's files cannot harm a terminal when printed."""

from pathlib import Path

import pytest

from data_pipeline.samples.sample import BadSample
from pretrain.survival.bad_samples import BadSampleBudget
from pretrain.survival.console import say, warn

ATTACK = "\x1b]0;title\x07\x1b[2J\r\x9b31m\x7f\u202e\udc80"


@pytest.mark.parametrize("print_it", [say, warn])
def test_control_characters_except_line_breaks_are_escaped(print_it: object, capfd: pytest.CaptureFixture[str]) -> None:
    assert callable(print_it)
    print_it(f"skipped {ATTACK} \u00e4\n\tsecond line")
    printed = "".join(capfd.readouterr())
    escaped = r"\x1b]0;title\x07\x1b[2J\r\x9b31m\x7f\u202e\x80"
    assert printed == f"skipped {escaped} \u00e4\n\tsecond line\n"


def test_bad_samples_are_named_by_shard_key_and_reason_on_one_line(tmp_path: Path) -> None:
    sample = BadSample(f"000000{ATTACK}.tar", f"key\nerror: forged {ATTACK}", f"image cannot be decoded\n{ATTACK}")
    assert str(sample).isprintable()
    assert r"\x1b[2J" in str(sample) and r"key\nerror: forged" in str(sample)
    budget = BadSampleBudget(tmp_path, 0)
    budget.samples[sample.shard, sample.key] = {"step": 0, **vars(sample)}
    assert budget.report().startswith("1 bad samples exceed data.max_bad_samples 0: 1 x image cannot be decoded")
    assert budget.report().isprintable()
