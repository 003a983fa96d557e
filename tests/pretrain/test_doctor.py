"""The report of pretrain.doctor, and its output in docs/doctor.md. No time at all, but for the whole doctor (slow)."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pretrain import doctor
from pretrain.diagnosis.findings import Finding
from pretrain.diagnosis.options import DoctorOptions
from tests.support.documents import blocks
from tests.support.launch import ROOT, run_ranks
from tests.support.tiny_run import TinyData

FINDINGS = [
    Finding("ok", "torch", "2.13"),
    Finding("warning", "apex", "other", "uninstall it"),
    Finding("ok", "x", "y"),
]
BROKEN = {
    "no shards": ("error", "pair shards", "data_pipeline.write_shards"),
    "wrong tokenizers": ("error", "visual tokenizer", "--model.num-visual-tokens 256"),
    "no space": ("error", "disk space", "--run-dir"),
    "PyPI's apex": ("warning", "apex", "pip uninstall apex"),
    "port taken": ("error", "main rank's port", "deepspeed --master_port 29501"),
}
"""Level, subject and a part of the remedy of the finding that each broken case is about."""


def reported(
    findings: list[Finding], options: DoctorOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    monkeypatch.setattr(doctor, "diagnose", lambda recipe, config, options: iter(findings))
    return doctor.report("", None, options), capsys.readouterr().out


def test_the_report_has_a_line_per_finding_and_a_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = reported(FINDINGS, DoctorOptions(), monkeypatch, capsys)
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["ok", "warning", ">", "ok", "3"]
    code, out = reported([*FINDINGS, Finding("error", "disk", "full")], DoctorOptions(quiet=True), monkeypatch, capsys)
    assert code == 1 and [line.split()[0] for line in out.splitlines()] == ["warning", ">", "error", "4"]


def test_json_is_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = reported(FINDINGS, DoctorOptions(json=True), monkeypatch, capsys)
    assert code == 0 and [one["subject"] for one in json.loads(out)["findings"]] == ["torch", "apex", "x"]


def captures() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each captured output in the page."""
    page = (ROOT / "docs" / "doctor.md").read_text()
    names = re.findall(r"^<!-- (.*) -->$", page, re.MULTILINE)
    yield from zip(names, blocks(page, "text"), strict=True)


def test_the_page_shows_a_sound_machine_and_five_broken_ones() -> None:
    found = dict(captures())
    assert set(found) == {"sound", *BROKEN}
    for text in found.values():
        command, *lines = text.strip().splitlines()
        assert command.startswith("$ python -m pretrain.doctor ")
        ends = [line for line in lines if re.fullmatch(r"\d+ findings in \d+ s: .*", line)]
        assert len(ends) == 1
        for line in lines:
            assert line.startswith((" " * 20, "ok  ", "warning  ", "error  ", "exit code ")) or line in ends, line


def test_a_sound_machine_has_no_error() -> None:
    text = dict(captures())["sound"]
    assert "\nerror" not in text and text.count("\nok ") > 30


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_machine_is_shown_with_its_remedy(case: str) -> None:
    level, subject, remedy = BROKEN[case]
    text = dict(captures())[case]
    (found,) = re.findall(rf"^{level:9}{subject:18}(.*\n(?: .*\n)+)", text, re.MULTILINE)[:1]
    shown = " ".join(found.split())
    assert "> " in shown and remedy in shown.partition("> ")[2]
    assert ("exit code 1" in text) == (level == "error")


@pytest.mark.slow
def test_the_doctor_finds_no_error_on_this_machine(tiny_data: TinyData, tmp_path: Path) -> None:
    arguments = ["--json", "--deadline", "200", "demo", *tiny_data.overrides(tmp_path / "run")]
    ended = run_ranks(1, "pretrain.doctor", arguments, fresh=True)
    report = json.loads(ended.stdout[0])
    errors = [one for one in report["findings"] if one["level"] == "error" and one["subject"] != "main rank's port"]
    assert errors == [] and len(report["findings"]) > 30, ended.stdout
    assert sys.executable and not (tmp_path / "run").exists()
