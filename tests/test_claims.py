"""Figures in the documentation equal those in the code."""

import re

import pytest

from data_pipeline.write_shards import ShardOptions
from model.parameter_counts import count_by_part
from pretrain.recipes import RECIPES
from pretrain.survival import stop
from tests.benchmarks.results import RESULTS
from tests.benchmarks.study_transfer import StudyOptions
from tests.data_pipeline.settings.test_ranges import NUM_EXAMPLES, SETTINGS
from tests.support.launch import ROOT


def words_of(name: str) -> str:
    """Return a document on one line."""
    return " ".join((ROOT / name).read_text().split())


@pytest.mark.parametrize("page", ["docs/measured.md", "docs/design.md"])
def test_the_number_of_numeric_settings_is_documented(page: str) -> None:
    assert NUM_EXAMPLES == 12
    assert f"{len(SETTINGS)} numeric settings have a range: twelve values outside of each" in words_of(page).replace(
        "All", "all"
    )


@pytest.mark.parametrize("page", ["README.md", "docs/measured.md"])
def test_the_published_sizes_are_those_of_the_recipes(page: str) -> None:
    base, large = (sum(count_by_part(RECIPES[name]().model).values()) for name in ("beit3_base", "beit3_large"))
    assert re.search(rf"{base:,}( parameters)? \(base\), {large:,} \(large\)", words_of(page))


def test_every_exit_code_of_a_run_is_documented() -> None:
    rows = re.findall(r"^\| (\d+) \| .* \|.* ?\|$", (ROOT / "docs" / "running.md").read_text(), re.MULTILINE)
    assert {int(code) for code in rows} == {*stop.EXIT_CODES.values(), stop.EXIT_RANK_LOST}


def test_documented_defaults_are_those_of_the_recipes() -> None:
    page, config = words_of("docs/running.md"), RECIPES["laptop"]()
    assert f"`--silent-rank-seconds {config.silent_rank_seconds:g}`" in page
    assert f"`--hang-seconds {config.hang_seconds:g}`" in page
    text_length = re.search(r"`--text-length` tokens \(default (\d+)\)", words_of("docs/data.md"))
    assert text_length is not None and int(text_length[1]) == ShardOptions.text_length


@pytest.mark.parametrize("page", ["docs/measured.md", "docs/kernels.md"])
def test_the_number_of_kernels_is_documented(page: str) -> None:
    sources = [path.read_text() for path in (ROOT / "model" / "kernels").glob("*.py")]
    num_kernels = sum(len(re.findall(r"^@jit\(do_not_specialize=", source, re.MULTILINE)) for source in sources)
    assert num_kernels > 5 and re.search(rf"\ball {num_kernels} (are )?compiled for sm_80 and sm_90", words_of(page))


def last_result(benchmark: str, options: str) -> dict[str, float]:
    """Return the figures of the last row of RESULTS.md that the command with these options wrote."""
    sections = re.findall(rf"^## {benchmark}, .*\n\n(.*)\n\n((?:\|.*\n)+)", RESULTS.read_text(), re.MULTILINE)
    tables = [
        table for head, table in sections if f"`python -m tests.benchmarks.{benchmark}{options} --append`" in head
    ]
    return {name: float(value) for name, value in re.findall(r"^\| (\w+) \| ([\d.]+) \|$", tables[-1], re.MULTILINE)}


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


@pytest.mark.parametrize("page", ["README.md", "docs/measured.md", "docs/contrastive.md", "docs/transfer.md"])
def test_the_gain_of_pretraining_is_that_of_the_last_study(page: str) -> None:
    figures, steps = last_result("study_transfer", ""), StudyOptions()
    total = steps.pretraining_steps + steps.contrast_steps
    words = words_of(page).replace("*", "")
    for name in ("r5", "r5_scratch", "r5_scratch_same_total"):
        assert percent(figures[name]) in words
    assert f"{steps.contrast_steps} contrastive steps" in words and f"{total:,}" in words
    if page == "docs/transfer.md":
        for name in ("r1", "r1_scratch", "r1_scratch_same_total", "r5_unseen_concepts", "r5_unseen_concepts_scratch",
                     "r5_unseen_concepts_scratch_same_total", "chance_r5_unseen_concepts"):  # fmt: skip
            assert percent(figures[name]) in words
        assert f"adds {100 * figures['least_gain_r5']:.1f} to" in words
        assert f"{steps.pretraining_steps:,} steps of masked pretraining" in words


def test_the_figures_of_several_languages_are_those_of_the_last_study() -> None:
    figures, words = last_result("study_transfer", " --languages en ru ja"), words_of("docs/transfer.md")
    for name in ("", "_scratch", "_scratch_same_total"):
        means = [re.escape(percent(figures[f"r5_{language}{name}"])) for language in ("en", "ru", "ja")]
        assert re.search(r" \([^|]*\) \| ".join(means), words)
    assert f"adds {100 * figures['least_gain_r5']:.1f} points" in words
