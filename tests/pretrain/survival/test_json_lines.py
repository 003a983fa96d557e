"""Damaged files of JSON lines: valid lines are kept, the rest is set aside."""

import json
from operator import itemgetter
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from pretrain.run.run_log import LOG_NAME, RunLog, is_log_line, read_log
from pretrain.survival import json_lines
from pretrain.survival.bad_samples import BadSampleBudget, read_bad_samples
from pretrain.survival.json_lines import restore_lines


def log_line(step: int) -> bytes:
    return json.dumps({"step": step, "loss": 1.0, "losses": {}}).encode()


def log_of(*lines: bytes) -> bytes:
    return b"".join(line + b"\n" for line in lines)


SOUND = [log_line(step) for step in range(6)]
DAMAGES = {
    "blank": b"",
    "null": b"null",
    "number": b"5",
    "empty object": b"{}",
    "list": b"[1, 2]",
    "no step": b'{"loss": 1.0}',
    "step is not a number": b'{"step": "3", "loss": 1.0}',
    "step is true": b'{"step": true, "loss": 1.0}',
    "step below 0": b'{"step": -1, "loss": 1.0}',
    "step is a fraction": b'{"step": 2.5, "loss": 1.0}',
    "no loss": b'{"step": 3}',
    "NUL page": bytes(4096),
    "half a line": log_line(3)[:9],
    "no UTF-8": b'{"step": 3, "loss": "\xff"}',
    "nested": b"[" * 7_000,
    "long number": b"1" * 7_000,
    "doubled": log_line(2),
    "huge": b'{"step": 3, "loss": 1.0, "keys": "' + b"x" * 20_000 + b'"}',
}


@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_only_a_damaged_line_itself_is_lost(
    damage: bytes, place: int, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 8_000)
    path = tmp_path / LOG_NAME
    path.write_bytes(log_of(*SOUND[:place], damage, *SOUND[place:]))
    RunLog(tmp_path, 6)
    assert path.read_bytes() == log_of(*SOUND)
    assert [line["step"] for line in read_log(tmp_path)] == list(range(6))
    set_aside = (tmp_path / "log.damaged-1.jsonl").read_bytes()
    is_first_of_two = damage == log_line(2) and place == 0
    assert set_aside == log_of(damage)
    printed = capfd.readouterr().err
    assert f"warning: {path} has " in printed and "set aside in log.damaged-1.jsonl" in printed
    assert is_first_of_two or f"the first in line {place + 1};" in printed


def test_half_a_line_at_the_end_and_lines_out_of_order(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / LOG_NAME
    path.write_bytes(log_of(SOUND[4], *SOUND[:4], SOUND[5], log_line(900), log_line(6)) + b'{"step": 7, "lo')
    RunLog(tmp_path, 6)  # steps after the checkpoint are repeated
    assert path.read_bytes() == log_of(*SOUND)
    assert (tmp_path / "log.damaged-1.jsonl").read_bytes() == b'{"step": 7, "lo'
    assert "1 damaged or duplicate line, the first in line 9;" in capfd.readouterr().err


def test_steps_without_a_line_are_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / LOG_NAME
    path.write_bytes(log_of(*SOUND[:2]) + bytes(100) + log_of(*SOUND[4:]))
    log = RunLog(tmp_path, 6)
    assert path.read_bytes() == log_of(*SOUND[:2], *SOUND[4:])
    assert capfd.readouterr().err == f"warning: {path} has no line for 2 of the 6 steps before this start\n"
    log.write({"step": 6, "loss": 1.0, "losses": {}, "lr": 0.1, "grad_norm": 1.0, "seconds": 1.0})
    assert [line["step"] for line in read_log(tmp_path)] == [0, 1, 4, 5, 6]


def test_an_intact_log_is_left_as_it_is_and_each_damage_has_its_own_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / LOG_NAME
    path.write_bytes(log_of(*SOUND))
    RunLog(tmp_path, 6)
    assert path.read_bytes() == log_of(*SOUND) and capfd.readouterr().err == ""
    for number in (1, 2):
        with path.open("ab") as file:
            file.write(b"damage %d\n" % number)
        RunLog(tmp_path, 6)
        assert (tmp_path / f"log.damaged-{number}.jsonl").read_bytes() == b"damage %d\n" % number
    assert path.read_bytes() == log_of(*SOUND)


def test_a_log_that_cannot_be_read_is_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / LOG_NAME).mkdir()
    with pytest.raises(OSError, match=rf"{LOG_NAME} cannot be read \(Is a directory\); make it readable, or move it"):
        RunLog(tmp_path, 6)


ANY_LINE = st.one_of(st.sampled_from(SOUND), st.sampled_from([*DAMAGES.values()]), st.binary(max_size=40))


@hypothesis.settings(max_examples=200)
@hypothesis.given(lines=st.lists(ANY_LINE))
def test_every_byte_is_kept_or_set_aside(lines: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("log")
    path = folder / LOG_NAME
    lines = [part for line in lines for part in line.split(b"\n")]
    path.write_bytes(log_of(*lines))
    restored = restore_lines(path, is_log_line, itemgetter("step"), first_step=6)
    assert [line["step"] for line in restored] == sorted({line["step"] for line in read_log(folder)})
    assert {step for step in range(6) if SOUND[step] in lines} <= {line["step"] for line in restored}
    aside = folder / "log.damaged-1.jsonl"
    left = path.read_bytes() + (aside.read_bytes() if aside.exists() else b"")
    assert sorted(left.split(b"\n")) == sorted(log_of(*lines).split(b"\n"))


def bad_line(step: int, key: str = "k") -> dict[str, Any]:
    return {"step": step, "shard": "000000.tar", "key": key, "reason": "image cannot be decoded"}


def test_bad_samples_after_a_damaged_line_still_count(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad_samples.jsonl"
    sound = [json.dumps(bad_line(step, f"k{step}")).encode() for step in range(3)]
    damaged = [b"", b"null", b'{"step": 1}', b'{"step": 1, "shard": 1, "key": 2, "reason": 3}', b"\xff\xfe", sound[0]]
    path.write_bytes(log_of(sound[0], *damaged, *sound[1:]))
    budget = BadSampleBudget(tmp_path, 10)
    budget.read(2)
    budget.write(2)
    assert [key for _, key in budget.samples] == ["k0", "k1"] == [line["key"] for line in read_bad_samples(tmp_path)]
    assert path.read_bytes() == log_of(*sound[:2])
    assert (tmp_path / "bad_samples.damaged-1.jsonl").read_bytes() == log_of(*damaged)
    assert f"warning: {path} has 6 damaged or duplicate lines, the first in line 2;" in capfd.readouterr().err
