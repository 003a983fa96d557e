"""Files of results in the forms of the servers. CPU, milliseconds."""

import json
from pathlib import Path

import pytest

from data_pipeline.samples.tasks import Task
from pretrain.evaluation.result_files import check_results_path, write_results


@pytest.mark.parametrize(
    ("task", "results", "content"),
    [
        ("vqa", [(7, "red"), (8, "2")], '[{"question_id": 7, "answer": "red"}, {"question_id": 8, "answer": "2"}]\n'),
        ("caption", [(9, "a cat")], '[{"image_id": 9, "caption": "a cat"}]\n'),
        ("nlvr2", [("dev-0-1-0", "True"), ("dev-0-1-1", "False")], "dev-0-1-0,True\ndev-0-1-1,False\n"),
        ("nlvr2", [('my "own", 1', "True")], '"my ""own"", 1",True\n'),
        ("classify", [("val_1", "n01440764")], '[{"key": "val_1", "class": "n01440764"}]\n'),
    ],
)
def test_files_of_results_have_the_form_of_the_servers(
    tmp_path: Path, task: Task, results: list[tuple[int | str, str]], content: str
) -> None:
    path = tmp_path / ("results.csv" if task == "nlvr2" else "results.json")
    check_results_path(path, task)
    write_results(path, task, results)
    assert path.read_text() == content
    if path.suffix == ".json":
        assert json.loads(content)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match="is a folder; give a file"):
        check_results_path(path, task)
    with pytest.raises(ValueError, match=f"must end in {path.suffix}"):
        check_results_path(path.with_suffix(".txt"), task)
    with pytest.raises(ValueError, match="the folder .* does not exist"):
        check_results_path(tmp_path / "none" / path.name, task)
