"""Long curves as a few hundred points: the extremes of each stretch of steps, and a running mean."""

import numpy as np

from pretrain.reporting.columns import Column, Floats

MAX_POINTS = 600
"""Points of a curve. More are not seen on a screen, and make the page large."""
FLAT = 1e-6
"""Relative difference up to which values count as equal."""
SMOOTHED_PART = 0.03
"""Part of a run over which the running mean goes."""


def smoothed(column: Column, part: float = SMOOTHED_PART) -> Column:
    """Return the centred running mean over a part of the run, at up to MAX_POINTS steps; NaN is left out."""
    column = column.finite
    if len(column) < 3:
        return column
    half = max(1, round(len(column) * part / 2))
    middle = float(np.median(column.values))  # sums of differences, so that rounding does not bend a flat curve
    sums = np.concatenate([[0.0], np.cumsum(column.values - middle)])
    places = np.unique(np.linspace(0, len(column) - 1, MAX_POINTS).round().astype(np.int64))
    first, stop = np.maximum(places - half, 0), np.minimum(places + half + 1, len(column))
    return Column(column.steps[places], middle + (sums[stop] - sums[first]) / (stop - first))


def thinned(column: Column) -> Column:
    """Return at most MAX_POINTS points with the lowest and the highest value of each stretch of steps, so that no
    spike is lost; NaN is left out."""
    column = column.finite
    if len(column) <= MAX_POINTS:
        return column
    stretches = np.array_split(np.arange(len(column)), MAX_POINTS // 2)
    places = [
        stretch[place]
        for stretch in stretches
        for place in sorted({int(column.values[stretch].argmin()), int(column.values[stretch].argmax())})
    ]
    return Column(column.steps[places], column.values[places])


def usual(column: Column) -> Floats:
    """Return the lowest and highest value, (2,), without the extreme 1 % on either side; (0,) if it is empty."""
    values = column.finite.values
    return np.quantile(values, (0.01, 0.99)) if len(values) else values


def bounds(found: list[Floats]) -> tuple[float, float]:
    """Return the range of an axis on which these values are drawn."""
    values = np.concatenate([np.empty(0), *found])
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if high - low <= FLAT * max(abs(low), abs(high)):
        low, high = low - (abs(low) or 1) * 0.05, high + (abs(high) or 1) * 0.05
    return low, high
