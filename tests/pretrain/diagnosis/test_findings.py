"""Lines, summary, exit code and JSON of findings. No time at all."""

import json

from pretrain.diagnosis.findings import WIDTH, Finding, as_json, exit_code, from_error, summary

OK = Finding("ok", "torch", "2.13.0")
WARNING = Finding("warning", "shared memory", "64 MB free " * 20, "start the container with --shm-size=8g")
ERROR = Finding("error", "disk space", "full", "free 3 GB")


def test_a_line_has_level_subject_and_text_and_the_remedy_below_it() -> None:
    assert str(OK) == "ok       torch             2.13.0"
    lines = str(WARNING).splitlines()
    assert lines[0].startswith("warning  shared memory     64 MB free 64 MB free")
    assert lines[-1].strip() == "> start the container with --shm-size=8g" and max(map(len, lines)) <= WIDTH


def test_the_remedy_of_an_error_is_what_follows_its_last_semicolon() -> None:
    found = from_error("image shards", ValueError("data/images is empty; it has no .tar; write shards"))
    assert found == Finding("error", "image shards", "data/images is empty; it has no .tar", "write shards")
    assert from_error("x", OSError("one\nsentence"), "warning") == Finding("warning", "x", "one sentence")
    assert from_error("x", ValueError()).text == "ValueError"


def test_only_errors_give_an_exit_code() -> None:
    assert (exit_code([OK, WARNING]), exit_code([OK, ERROR, WARNING])) == (0, 1)


def test_summary_and_json_count_levels() -> None:
    assert summary([OK, OK, ERROR, ERROR, WARNING], 3.2) == "5 findings in 3 s: 2 ok, 1 warning, 2 errors"
    read = json.loads(as_json([OK, ERROR], 3.21))
    assert read["counts"] == {"ok": 1, "warning": 0, "error": 1} and read["seconds"] == 3.2
    assert read["findings"][1] == {"level": "error", "subject": "disk space", "text": "full", "remedy": "free 3 GB"}
