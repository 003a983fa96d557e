"""The reports in docs/upstream show what they say, with the DeepSpeed that is installed. CPU, seconds."""

import re

from tests.support.launch import ROOT, run_ranks

LINE = re.compile(
    r"^(deepspeed \S+|with the wait): step (\d): (\d+) of (\d+) all-gathers are not ordered", re.MULTILINE
)
REPORT = ROOT / "docs" / "upstream" / "zero3_gather_order.md"


def test_gathers_of_zero3_are_not_ordered_behind_the_optimizer_and_one_wait_orders_them() -> None:
    ended = run_ranks(2, "docs.upstream.zero3_gather_order", [])
    assert ended.exit_codes == [1, 1], ended.stderr
    assert ended.stdout[1] == ""
    report = REPORT.read_text()
    assert ended.stdout[0].strip() in report
    lines = LINE.findall(ended.stdout[0])
    assert len(lines) == 10
    for which, step, num_unordered, num_all in lines:
        is_unordered = which != "with the wait" and int(step) >= 2  # earlier, DeepSpeed compares ranks, which waits
        assert int(num_unordered) == (int(num_all) if is_unordered else 0) and int(num_all) > 0
