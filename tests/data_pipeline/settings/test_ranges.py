"""Every number of a command line or a file has a range, stated once and checked wherever the value comes from."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.settings.parsing import UsageError, help_text, parse_options
from data_pipeline.settings.ranges import Range, range_of
from pretrain.config.dry_run import DryRunOptions
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.visual_tokenizer import VisualTokenizerRun
from pretrain.diagnosis.options import DoctorOptions
from pretrain.planning.options import PlanOptions, ScalingOptions
from pretrain.recipes import RECIPES, VISUAL_TOKENIZER_RECIPES
from tests.test_commands import OPTIONS

KINDS = {"PretrainConfig": PretrainConfig, "VisualTokenizerRun": VisualTokenizerRun, "plan": PlanOptions,
         "scaling": ScalingOptions, "doctor": DoctorOptions, "dry_run": DryRunOptions, **OPTIONS}  # fmt: skip
NUM_EXAMPLES = 12
"""Values outside and inside the range of each field."""


@dataclass(frozen=True)
class Setting:
    """A numeric field of a command line."""

    kind: str
    path: tuple[str, ...]
    owner: type
    annotation: Any

    @property
    def option(self) -> str:
        prefixed = self.path if self.kind in ("PretrainConfig", "VisualTokenizerRun", "plan") else self.path[-1:]
        return "--" + ".".join(prefixed).replace("_", "-").rstrip("-")

    @property
    def range(self) -> Range:
        found = range_of(self.annotation)
        assert found is not None
        return found


def is_number(annotation: object) -> bool:
    """Return whether a type is int or float, perhaps optional, annotated or inside a tuple."""
    return annotation in (int, float) or any(map(is_number, get_args(annotation)[:2]))


def numeric_settings(kind: str, owner: Any, path: tuple[str, ...] = ()) -> Iterator[Setting]:
    hints = get_type_hints(owner, include_extras=True)
    for field in dataclasses.fields(owner):
        parts = [part for part in (hints[field.name], *get_args(hints[field.name])) if isinstance(part, type)]
        inner = [part for part in parts if dataclasses.is_dataclass(part)]
        for part in inner[:1]:
            yield from numeric_settings(kind, part, (*path, field.name))
        if not inner and is_number(hints[field.name]):
            yield Setting(kind, (*path, field.name), owner, hints[field.name])


SETTINGS = [setting for kind, owner in KINDS.items() for setting in numeric_settings(kind, owner)]
IDS = [f"{setting.kind}.{'.'.join(setting.path)}" for setting in SETTINGS]


def test_all_numbers_are_found() -> None:
    assert len(SETTINGS) > 100 and {setting.kind for setting in SETTINGS} == set(KINDS)
    assert {"PretrainConfig.optimizer.beta1", "VisualTokenizerRun.teacher.image_size", "pretrain.convert.num_heads",
            "data_pipeline.write_shards.keep.quality"} <= set(IDS)  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_each_has_a_range_that_its_default_lies_in(setting: Setting) -> None:
    found = range_of(setting.annotation)
    assert found is not None and math.isfinite(found.low) and math.isfinite(found.high) and found.low < found.high
    assert math.nan not in found and -1 not in found and True not in found


def test_a_number_without_a_range_would_be_found() -> None:
    @dataclass
    class Careless:
        count: int = 3
        share: float | None = None

    found = list(numeric_settings("careless", Careless))
    assert [range_of(setting.annotation) for setting in found] == [None, None]


def outside(bounds: Range) -> st.SearchStrategy[float]:
    huge = st.sampled_from([2**63, 2**64, -(2**64), 10**30])
    wrong = [-1, huge, st.integers(max_value=math.ceil(bounds.low) - 1), st.integers(min_value=int(bounds.high) + 1)]
    strategies = [value if isinstance(value, st.SearchStrategy) else st.just(value) for value in wrong]
    if bounds.number is float:
        strategies += [st.sampled_from([math.nan, math.inf, -math.inf, 1e300]), st.floats(max_value=bounds.low)]
    else:
        strategies.append(st.sampled_from([math.nan, math.inf, 0.5, 1e300]))
    return st.one_of(strategies).filter(lambda value: value not in bounds)


def inside(bounds: Range) -> st.SearchStrategy[float]:
    if bounds.number is int:
        return st.integers(int(bounds.low), int(bounds.high))
    return st.floats(
        bounds.low, bounds.high, exclude_min=not bounds.has_low, exclude_max=not bounds.has_high, allow_nan=False
    )


@cache
def example(owner: type) -> Any:
    """Return an instance whose fields can be changed one by one."""
    defaults = {
        PretrainConfig: RECIPES["demo"],
        VisualTokenizerRun: VISUAL_TOKENIZER_RECIPES["demo"],
    }
    if owner in defaults:
        return defaults[owner]()
    words: dict[str, Any] = {"kind": "image", "source": "a", "out": "b", "folder": "c", "images": "d", "pairs": "e"}
    words |= {"sources": ("f",), "runs": (Path("g"),)}
    required = [field.name for field in dataclasses.fields(owner) if field.default is field.default_factory]
    return owner(**{name: words[name] for name in required})


@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_values_outside_the_range_are_refused_with_field_value_and_range(setting: Setting) -> None:
    name, bounds = setting.path[-1], setting.range

    @settings(max_examples=NUM_EXAMPLES)
    @given(outside(bounds))
    def check(value: float) -> None:
        with pytest.raises(ValueError) as built:
            dataclasses.replace(example(setting.owner), **{name: value})
        assert str(built.value).startswith(f"{name} ") and str(built.value).endswith(f" must be {bounds}")
        with pytest.raises(ValueError, match="must be"):
            bounds.parse(str(value))
        with pytest.raises(pydantic.ValidationError):
            pydantic.TypeAdapter(setting.annotation).validate_python(value)

    check()


@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_values_inside_the_range_are_taken_as_they_are(setting: Setting) -> None:
    bounds = setting.range

    @settings(max_examples=NUM_EXAMPLES)
    @given(inside(bounds))
    def check(value: float) -> None:
        assert value in bounds and bounds.parse(str(value)) == value
        assert pydantic.TypeAdapter(setting.annotation).validate_json(str(value)) == value

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_line_names_the_option_and_its_help_the_range(kind: str) -> None:
    of_kind = [setting for setting in SETTINGS if setting.kind == kind]
    default, is_recipe = example(KINDS[kind]), kind in ("PretrainConfig", "VisualTokenizerRun")
    help = help_text(KINDS[kind], "command", default)
    for setting in of_kind:
        assert setting.range.bounds in help.split(f"{setting.option} ")[1].splitlines()[0]
    for setting in of_kind[::7] if is_recipe else of_kind:  # building the parser of a recipe takes time
        for value in ("nan", "-1", str(10**30), "many"):
            with pytest.raises(UsageError) as refused:
                parse_options(KINDS[kind], [f"{setting.option}={value}"], "command", default)
            expected = f"{setting.option} {value} must be {setting.range}; command --help lists every option"
            assert str(refused.value) == expected
