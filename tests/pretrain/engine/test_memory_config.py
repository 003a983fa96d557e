"""DeepSpeed's file: settings that DeepSpeed would ignore, misread or refuse are refused here, in one sentence."""

import json
from pathlib import Path

import pytest

from pretrain.engine.memory_config import FOLDER, read_memory_config
from pretrain.jobs.pretraining import Pretraining
from pretrain.recipes import RECIPES
from tests.support.mistakes import preparation_mistake
from tests.support.tiny_run import TinyData

ZERO = '{"zero_optimization": {"stage": 3%s}%s}'


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is not valid JSON: Expecting value"),
        ("[]", "must be a JSON object, {...}, not a list"),
        ("3", "must be a JSON object, {...}, not a number"),
        ('{"zero_optimization": {"stage": 3, "stage": 2}}', "is not valid JSON: it sets 'stage' twice; remove one"),
        (ZERO % (', "reduce_bucket_size": NaN', ""), "is not valid JSON: NaN is not a number"),
        (ZERO % (', "reduce_bucket_size": Infinity', ""), "is not valid JSON: Infinity is not a number"),
        ("[" * 100_000, "is not valid JSON"),
        ("\xff\xfe", "is not valid JSON"),
        ("{}", "has no block zero_optimization"),
        (
            ZERO % ("", ', "zero_optimisation": {}'),
            "sets zero_optimisation, which is not used here; did you mean zero_",
        ),
        (ZERO % ("", ', "optimzer": {}'), "sets optimzer, which is not used here"),
        (
            ZERO % ("", ', "gradient_allreduce_op": "sum"'),
            "sets gradient_allreduce_op, which is not used here; keys are",
        ),
        (ZERO % ("", ', "checkpoint": {"use_node_local_storage": true}'), "sets checkpoint, which is not used here"),
        (ZERO % ("", ', "steps_per_print": 1'), "sets steps_per_print, which is not used here"),
        (ZERO % ("", ', "train_batch_size": 1'), "sets train_batch_size, which the recipe owns"),
        (
            ZERO % (', "overlap_com": true', ""),
            "sets zero_optimization.overlap_com, which is not used here; did you mean o",
        ),
        (
            ZERO % (', "offload_optimizer": {"devise": "cpu"}', ""),
            "zero_optimization.offload_optimizer.devise, which is n",
        ),
        (
            ZERO % (', "offload_optimizer": {"device": "gpu"}', ""),
            'offload_optimizer.device to "gpu"; it must be one of none, cpu, nvme',
        ),
        (ZERO % (', "offload_optimizer": "cpu"', ""), 'offload_optimizer to "cpu"; it must be an object, {...}'),
        (
            ZERO % (', "cpu_offload": true', ""),
            "sets zero_optimization.cpu_offload, which DeepSpeed has replaced; set off",
        ),
        (ZERO % (', "mics_shard_size": 2', ""), "sets zero_optimization.mics_shard_size, which is not used here"),
        (ZERO % (', "overlap_comm": "yes"', ""), 'zero_optimization.overlap_comm to "yes"; it must be true or false'),
        (ZERO % (', "overlap_comm": 1', ""), "zero_optimization.overlap_comm to 1; it must be true or false"),
        (
            ZERO % (', "reduce_bucket_size": true', ""),
            "reduce_bucket_size to true; it must be an integer of at most 64 b",
        ),
        (ZERO % (', "reduce_bucket_size": "auto"', ""), 'reduce_bucket_size to "auto"; it must be an integer'),
        (
            ZERO % (', "reduce_bucket_size": 1e30', ""),
            "reduce_bucket_size to 1e+30; it must be an integer of at most 64",
        ),
        (ZERO % (', "reduce_bucket_size": 1e999', ""), "reduce_bucket_size to Infinity; it must be an integer of at"),
        (ZERO % (', "reduce_bucket_size": 1.5', ""), "reduce_bucket_size to 1.5; it must be an integer of at most 64"),
        (
            ZERO % (', "reduce_bucket_size": -1', ""),
            "zero_optimization.reduce_bucket_size -1: Input should be greater th",
        ),
        ('{"zero_optimization": {"stage": 7}}', "sets zero_optimization.stage to 7; it must be one of 0, 1, 2, 3"),
        ('{"zero_optimization": {"stage": "3"}}', 'zero_optimization.stage to "3"; it must be one of 0, 1, 2, 3'),
        ('{"zero_optimization": {"stage": true}}', "zero_optimization.stage to true; it must be one of 0, 1, 2, 3"),
        ('{"zero_optimization": null}', "sets zero_optimization to null; it must be an object"),
        (ZERO % ("", ', "comms_logger": {"enable": true}'), "comms_logger.enable, which is not used here; did you m"),
        (ZERO % ("", ', "data_types": {"grad_accum_dtype": "fp8"}'), "data_types.grad_accum_dtype"),
        (ZERO % ("", ', "communication_data_type": 16'), "communication_data_type 16: Input should be 'fp32', 'fp16'"),
    ],
)
def test_a_mistake_in_a_file_is_reported_in_one_sentence(content: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError) as refused:
        read_memory_config(path)
    assert str(path) in str(refused.value) and expected in str(refused.value) and "\n" not in str(refused.value)


def test_large_numbers_may_be_written_as_in_the_documentation_of_deepspeed(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(ZERO % (', "reduce_bucket_size": 5e8, "prefetch_bucket_size": 5e7', ', "dump_state": false'))
    assert read_memory_config(path)["zero_optimization"]["reduce_bucket_size"] == 5e8


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder; give one of its files"):
        read_memory_config(tmp_path)
    with pytest.raises(
        ValueError, match=r"zero3_cpi.json does not exist; did you mean zero3_cpu.json\?; choose one of "
    ):
        read_memory_config(Path("ds_configs/zero3_cpi.json"))


def test_the_files_of_the_project_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = json.loads((FOLDER / "zero3.json").read_text())
    assert read_memory_config(Path("ds_configs/zero3.json")) == expected
    (tmp_path / "ds_configs").mkdir()
    (tmp_path / "ds_configs" / "zero3.json").write_text('{"zero_optimization": {"stage": 1}}')
    assert read_memory_config(Path("ds_configs/zero3.json"))["zero_optimization"] == {
        "stage": 1
    }  # a file in the working directory takes precedence


def test_such_a_file_ends_a_run_before_its_engine_is_built(
    tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ds.json").write_text(ZERO % (', "overlap_com": true', ""))
    arguments = ["demo", *tiny_data.overrides(tmp_path / "run"), "--deepspeed-config", str(tmp_path / "ds.json")]
    monkeypatch.chdir(tmp_path)
    message = preparation_mistake(Pretraining, RECIPES, arguments)
    assert "sets zero_optimization.overlap_com, which is not used here; did you mean overlap_comm?" in message
