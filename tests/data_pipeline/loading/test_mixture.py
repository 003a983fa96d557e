"""The mixture of sources: shares kept at all times."""

from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.loading.mixture import Mixture


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Mixture, list[Fraction]]:
    """A mixture and the share of each source."""
    num_sources, num_lanes = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    sizes = draw(st.lists(st.integers(1, 10**7), min_size=num_sources, max_size=num_sources))
    weight = st.fractions(Fraction(1, 50), 100, max_denominator=50)
    weights = draw(st.lists(weight, min_size=num_sources, max_size=num_sources))
    total = sum((w * s for w, s in zip(weights, sizes, strict=True)), Fraction(0))
    mixture = Mixture(sizes, weights, num_lanes * draw(st.integers(1, 5)), num_lanes, draw(st.integers(0, 1000)))
    return mixture, [w * s / total for w, s in zip(weights, sizes, strict=True)]


@given(mixtures(), st.integers(0, 10**6))
def test_positions_in_a_source_follow_one_another_and_shares_are_kept_at_all_times(
    case: tuple[Mixture, list[Fraction]], first_step: int
) -> None:
    mixture, shares = case
    per_step = mixture.per_lane * mixture.num_lanes
    counts = mixture.seen(first_step)
    following: dict[tuple[int, int], int] = {}
    for step in range(first_step, first_step + 10):
        assert mixture.seen(step) == counts
        drawn = Counter[int]()
        for place in range(per_step):
            draw = mixture.draw(step, place)
            assert draw.position == following.get((draw.source, draw.lane), draw.position)
            following[draw.source, draw.lane] = draw.position + 1
            drawn[draw.source] += 1
        counts = [count + drawn[source] for source, count in enumerate(counts)]
        for source, share in enumerate(shares):
            assert abs(counts[source] - share * (step + 1) * per_step) <= (source + 1) * mixture.num_lanes


def test_a_step_is_mixed_as_the_whole_is() -> None:
    mixture = Mixture([1000, 3000], [Fraction(1), Fraction(1)], 64, 64, seed=0)
    for step in range(100):
        assert 12 <= sum(mixture.draw(step, place).source == 0 for place in range(64)) <= 20
