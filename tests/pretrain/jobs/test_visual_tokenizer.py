"""The job that trains a visual tokenizer: its warnings and its output file. CPU, no time at all."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.jobs.codebook_step import LIVE_STEPS
from pretrain.jobs.visual_tokenizer import VisualTokenizerTraining, check_out, check_writable
from pretrain.recipes.small import demo_visual_tokenizer


def record(step: int, live_share: float) -> dict[str, Any]:
    return {"step": step, "codebook": {"usage": 0.2, "perplexity": 12.3, "live_share": live_share}}


def test_a_collapse_of_the_codebook_is_reported_once_each_time(capfd: pytest.CaptureFixture[str]) -> None:
    job = VisualTokenizerTraining(demo_visual_tokenizer(), torch.device("cpu"))

    def warnings_of(*records: dict[str, Any]) -> int:
        for step_record in records:
            job.check_record(step_record)
        return capfd.readouterr().err.count("the codebook has collapsed")

    assert warnings_of(record(LIVE_STEPS - 1, 0.1)) == 0  # codes have not had the time to be used
    assert warnings_of(record(LIVE_STEPS, 0.6)) == 0
    assert warnings_of(record(LIVE_STEPS + 1, 0.4), record(LIVE_STEPS + 2, 0.3)) == 1
    assert warnings_of({"step": LIVE_STEPS + 3}) == 0  # a skipped step has no figures of the codebook
    assert warnings_of(record(LIVE_STEPS + 4, 0.3)) == 0
    assert warnings_of(record(LIVE_STEPS + 5, 0.7), record(LIVE_STEPS + 6, 0.4)) == 1


def test_the_output_file_is_tried_out_before_training(tmp_path: Path) -> None:
    out = tmp_path / "new" / "tokenizer.pt"
    check_out(out, is_new=True)
    assert not out.parent.exists()
    check_writable(out)
    assert list(out.parent.iterdir()) == []
    out.write_bytes(b"another run's")
    with pytest.raises(ValueError, match="is there already, from another run; give another --out, or delete it"):
        check_out(out, is_new=True)
    check_out(out, is_new=False)
    with pytest.raises(ValueError, match="is a folder; give a file"):
        check_out(tmp_path, is_new=True)
