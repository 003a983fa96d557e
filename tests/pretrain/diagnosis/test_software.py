"""Checks of installed software, with injected packages and drivers. CPU, seconds."""

import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from pretrain.diagnosis import software
from pretrain.diagnosis.findings import Finding


def by_subject(findings: object) -> dict[str, Finding]:
    return {one.subject: one for one in findings}  # type: ignore[attr-defined]


def test_a_python_that_is_not_tested_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_subject(software.python())["Python"].level == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    assert by_subject(software.python())["Python"].level == "warning"


def test_packages_that_are_missing_or_too_old_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["numpy>=99", "no-such-package>=1", "torch>=2", 'pyarrow>=16; extra == "parquet"']
    monkeypatch.setattr(metadata, "requires", lambda name: required)
    found = by_subject(software.packages())["packages"]
    assert found.level == "error" and found.remedy
    assert "no-such-package is missing" in found.text and ">=99 is needed" in found.text and "pyarrow" not in found.text
    monkeypatch.setattr(metadata, "requires", lambda name: required[2:])
    assert by_subject(software.packages())["packages"].text == "all 1 required ones, in supported versions"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_sound_unless_the_recipe_needs_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(software, "DRIVER", tmp_path / "version")
    assert {one.level for one in software.torch_and_gpus(needs_gpu=False)} == {"ok"}
    assert by_subject(software.torch_and_gpus(needs_gpu=True))["CUDA"].level == "warning"


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is built for CUDA")
def test_a_driver_beside_a_cpu_build_of_torch_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu\nGCC version: 12\n"
    )
    monkeypatch.setattr(software, "DRIVER", tmp_path / "version")
    found = by_subject(software.torch_and_gpus(needs_gpu=False))
    assert "570.86.15" in found["driver"].text
    assert found["CUDA"].level == "warning" and "pip install" in found["CUDA"].remedy


def test_a_driver_that_torch_cannot_use_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old\nPlease update")

    monkeypatch.setattr(torch.cuda, "init", fail)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = software._unavailable("12.8", has_driver=True, needs_gpu=False)
    assert found.level == "error" and found.text.endswith("is too old") and "update the driver" in found.remedy
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert software._unavailable("12.8", has_driver=True, needs_gpu=False).remedy == "unset it"


def write_package(folder: Path, subpackages: list[str], summary: str = "") -> None:
    """Write a package apex, with the metadata of PyPI's if it has a summary."""
    for subpackage in [".", *subpackages]:
        (folder / "apex" / subpackage).mkdir(parents=True, exist_ok=True)
    (folder / "apex" / "__init__.py").write_text("raise ImportError('this is imported')\n")
    if summary:
        information = folder / "apex-0.9.10.dev0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: apex\nVersion: 0.9.10.dev0\nSummary: {summary}\n"
        )


def test_the_other_apex_of_pypi_is_recognized_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_package(tmp_path, [], "Pyramid toolkit to add Velruse, Flash Messages")
    monkeypatch.syspath_prepend(tmp_path)
    found = by_subject(software.apex())["apex"]
    assert found.level == "warning" and "pip uninstall apex" in found.remedy
    assert "apex 0.9.10.dev0 of PyPI (Pyramid toolkit to add Velruse, Flash Messages)" in found.text


def test_nvidias_apex_without_its_extensions_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_package(tmp_path, ["normalization", "optimizers"])
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = software.apex()
    assert found.level == "warning" and "fused_layer_norm_cuda" in found.text and "APEX_CUDA_EXT=1" in found.remedy
    (tmp_path / "apex" / "amp_C.so").touch()
    assert [one.level for one in software.apex()] == ["warning", "ok"]


def test_deepspeed_names_its_optimizer_without_compiling() -> None:
    found = by_subject(software.deepspeed_and_ops())
    assert found["DeepSpeed"].level == "ok" and "AdamW of" in found["DeepSpeed ops"].text
