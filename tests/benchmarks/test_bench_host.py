"""Inputs of the benchmark of the host: pieces, buckets, both variants. CPU, seconds."""

from tests.benchmarks.bench_host import bucket_counts, gather_ms, piece_sizes, reduce_ms


def test_a_bucket_is_reduced_before_it_would_overflow() -> None:
    assert bucket_counts([60, 40, 1, 99, 1], 100) == [2, 2, 1]
    assert bucket_counts([500, 1], 100) == [1, 1]  # a gradient larger than a bucket has one of its own


def test_both_variants_have_the_same_elements_in_the_same_pieces() -> None:
    separate, stacked = (piece_sizes("demo", variant) for variant in ("separate", "stacked"))
    assert [sum(piece) for piece in separate] == [sum(piece) for piece in stacked]
    assert all(len(few) < len(many) for few, many in zip(stacked, separate, strict=True))


def test_deepspeeds_code_runs_without_ranks() -> None:
    pieces = [[4, 4], [4]]
    assert gather_ms(pieces, 3) > 0 and reduce_ms(pieces, 3) > 0
