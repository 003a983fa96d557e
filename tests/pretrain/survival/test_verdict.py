"""The rank that a verdict names, and when, by a clock that only tests set forward."""

import pytest

from pretrain.survival.verdict import (
    GRACE_SECONDS,
    Limits,
    MainRank,
    Member,
    Turns,
    Verdict,
    must_ask,
    place_of,
    restart_clocks,
    verdict,
)

LIMITS = Limits(silent_seconds=60, hang_seconds=600)
BEAT = LIMITS.beat_seconds


class Run:
    """Ranks as the main rank hears them, each on its own node."""

    def __init__(self, num_ranks: int = 4, phase: str = "forward", step: int = 3):
        self.now = 1000.0
        self.members = [Member(self.now, self.now, is_connected=True) for _ in range(num_ranks)]
        for rank in range(num_ranks):
            self.hear(rank, phase=phase, step=step, host=f"node{rank}")

    def hear(self, rank: int, **message: object) -> None:
        self.members[rank].hear(message, self.now)

    def close(self, rank: int) -> None:
        self.members[rank].disconnect(self.now)

    def verdict(self) -> Verdict | None:
        """Return the verdict of one turn of the judge."""
        found = verdict(self.members, self.now, LIMITS)
        if found is None:
            must_ask(self.members, self.now, LIMITS)
        return found

    def wait(self, seconds: float, silent: tuple[int, ...] = ()) -> None:
        """Let time pass without a verdict, while all ranks but the silent ones give signs of life."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + BEAT)
            for rank, member in enumerate(self.members):
                if rank not in silent and not member.has_ended:
                    self.hear(rank, **member.where)
            assert self.verdict() is None


def test_a_run_that_makes_progress_has_no_verdict_however_long_it_takes() -> None:
    run = Run()
    for step in range(4, 30):
        run.hear(step % 4, phase="backward", step=step)
        run.wait(LIMITS.hang_seconds - 1)


@pytest.mark.parametrize(
    ("phase", "step", "place"),
    [("preparation", -1, "preparation"), ("building", -1, "building"), ("reading", 0, "reading of step 0")]
    + [(phase, 5, f"{phase} of step 5") for phase in ("agreement", "forward", "backward", "optimizer", "saving")],
)
def test_a_rank_that_dies_is_named_at_once_with_its_node_and_place(phase: str, step: int, place: str) -> None:
    run = Run(phase=phase, step=step)
    run.close(1)
    assert run.verdict() == Verdict(f"rank 1 on node1 died in {place}", 1)


def test_a_rank_that_dies_before_it_reported_its_place() -> None:
    members = [Member(0.0, 0.0), Member(0.0, 0.0, is_connected=True)]
    members[1].disconnect(1.0)
    assert verdict(members, 1.0, LIMITS) == Verdict("rank 1 on an unknown host died in start", 1)


def test_the_first_of_several_deaths_is_named_or_the_lowest_rank_of_simultaneous_ones() -> None:
    run = Run()
    run.close(3)
    run.now += 0.1
    run.close(0)
    assert run.verdict() == Verdict("rank 3 on node3 died in forward of step 3", 3)
    run = Run()
    run.close(2)
    run.close(1)
    assert run.verdict() == Verdict("rank 1 on node1 died in forward of step 3", 1)


def test_a_rank_that_failed_alone_is_named_with_its_exception_if_no_death_explains_it() -> None:
    run = Run()
    run.hear(2, failed="MemoryError: no memory is left")
    run.wait(GRACE_SECONDS - 0.1)
    run.now += 0.2
    sentence = "rank 2 on node2 failed in forward of step 3 (MemoryError: no memory is left)"
    assert run.verdict() == Verdict(sentence, 2)


def test_the_first_of_several_failures_is_named() -> None:
    run = Run()
    run.hear(2, failed="ValueError: cause")
    run.now += 0.5
    run.hear(0, failed="RuntimeError: consequence")
    run.now += GRACE_SECONDS - 0.5
    found = run.verdict()
    assert found is not None and found.rank == 2 and "(ValueError: cause)" in found.sentence


def test_a_failure_that_a_death_explains_is_not_named() -> None:
    run = Run()
    run.hear(0, failed="RuntimeError: Connection closed by peer")
    run.wait(1)
    run.close(1)
    assert run.verdict() == Verdict("rank 1 on node1 died in forward of step 3", 1)
    run.now += GRACE_SECONDS
    assert run.verdict() == Verdict("rank 1 on node1 died in forward of step 3", 1)


def test_a_failure_waits_as_long_as_another_rank_may_be_lost_and_then_that_one_is_named() -> None:
    run = Run()
    run.wait(2.5 * BEAT, silent=(3,))
    run.hear(0, failed="RuntimeError: timed out")
    run.wait(LIMITS.silent_seconds - 2.5 * BEAT, silent=(3,))
    run.now += 1
    sentence = "rank 3 on node3 was not heard from for 61 s, last in forward of step 3; its process or node hangs"
    assert run.verdict() == Verdict(sentence, 3)


def test_a_failure_is_named_if_the_quiet_rank_is_heard_again() -> None:
    run = Run()
    run.wait(2.5 * BEAT, silent=(3,))
    run.hear(0, failed="RuntimeError: timed out")
    run.wait(GRACE_SECONDS + 1, silent=(3,))
    run.hear(3, **run.members[3].where)
    found = run.verdict()
    assert found is not None and found.sentence.startswith("rank 0 on node0 failed in forward of step 3 (RuntimeError")


def test_a_failure_does_not_wait_for_a_rank_that_has_ended() -> None:
    run = Run()
    run.hear(1, end=True)
    run.wait(3 * BEAT)
    run.hear(0, failed="ValueError: x")
    run.wait(GRACE_SECONDS - 0.1)
    run.now += 0.2
    found = run.verdict()
    assert found is not None and found.rank == 0


def test_a_silent_rank_is_lost_and_signs_of_life_keep_a_rank_that_does_not_move() -> None:
    run = Run(phase="backward")
    run.wait(LIMITS.silent_seconds, silent=(1,))
    run.now += 0.5
    sentence = "rank 1 on node1 was not heard from for 60 s, last in backward of step 3; its process or node hangs"
    assert run.verdict() == Verdict(sentence, 1)


def test_a_rank_that_has_not_connected_may_take_as_long_as_a_hang() -> None:
    run = Run()
    run.members[2] = Member(run.now, run.now)
    run.hear(0, phase="preparation", step=-1)
    run.wait(LIMITS.hang_seconds, silent=(2,))
    run.now += 1
    sentence = "rank 2 on an unknown host was not heard from for 601 s, last in start; its process or node hangs"
    assert run.verdict() == Verdict(sentence, 2)


def test_a_rank_that_ended_as_agreed_is_not_missed() -> None:
    run = Run(phase="end", step=8)
    for rank in (1, 2):
        run.hear(rank, end=True)
    run.close(1)
    run.wait(2 * LIMITS.silent_seconds, silent=(1, 2))
    assert not run.members[1].is_connected and run.members[1].died_at is None


def test_a_rank_that_leaves_without_having_agreed_has_died() -> None:
    run = Run(phase="reading")
    run.hear(2, end=True)
    run.close(2)
    run.close(1)
    assert run.verdict() == Verdict("rank 1 on node1 died in reading of step 3", 1)


def stuck(run: Run) -> None:
    """Let the run stand still until its ranks are asked for their place."""
    run.wait(LIMITS.hang_seconds)
    run.now += 1
    assert run.verdict() is None and all(member.asked_at == run.now for member in run.members)


def test_a_rank_that_hangs_is_named_with_its_line_of_code_before_those_that_wait_for_it() -> None:
    run = Run(num_ranks=6)
    for rank in (0, 2, 3, 4):
        run.hear(rank, phase="backward", step=3)
    run.hear(5, phase="optimizer", step=3)
    stuck(run)
    for rank in (0, 2, 3, 4):
        run.hear(rank, frame="distributed.py:9 all_reduce called by accumulate.py:5 accumulate")
    run.hear(1, frame="reader.py:12 read")
    run.wait(GRACE_SECONDS)
    run.now += 0.1
    assert run.verdict() == Verdict(
        "nothing moved for 600 s: rank 1 in forward of step 3, reader.py:12 read; "
        "rank 5 in optimizer of step 3, ; "
        "rank 0, 2-4 in backward of step 3, distributed.py:9 all_reduce called by accumulate.py:5 accumulate",
        1,
    )


def test_ranks_that_hang_steps_behind_are_named_first_even_if_they_are_the_majority() -> None:
    run = Run(num_ranks=4, step=7)
    for rank in (1, 2, 3):
        run.hear(rank, phase="saving", step=6)
    stuck(run)
    run.wait(GRACE_SECONDS)
    run.now += 0.1
    sentence = "nothing moved for 600 s: rank 1-3 in saving of step 6, ; rank 0 in forward of step 7, "
    assert run.verdict() == Verdict(sentence, 1)


def test_a_run_that_continues_after_it_was_asked_does_not_hang() -> None:
    run = Run()
    stuck(run)
    run.hear(2, phase="backward", step=3)
    run.wait(LIMITS.hang_seconds)
    assert all(member.asked_at is None for member in run.members)
    run.now += 1
    assert must_ask(run.members, run.now, LIMITS) and not must_ask(run.members, run.now, LIMITS)


def test_a_death_while_the_run_hangs_is_named_before_the_hang() -> None:
    run = Run()
    stuck(run)
    run.wait(GRACE_SECONDS)
    run.now += 0.1
    run.close(3)
    assert run.verdict() == Verdict("rank 3 on node3 died in forward of step 3", 3)


def test_after_a_suspension_of_the_main_rank_itself_all_clocks_are_reset() -> None:
    run, turns = Run(), Turns(1000.0)
    run.now += LIMITS.silent_seconds / 2
    assert not turns.was_suspended(run.now, LIMITS)
    run.now += 10 * LIMITS.hang_seconds
    assert turns.was_suspended(run.now, LIMITS) and verdict(run.members, run.now, LIMITS) is not None
    restart_clocks(run.members, run.now)
    run.wait(LIMITS.silent_seconds, silent=(1,))
    run.now += 0.1
    assert not turns.was_suspended(turns.last + 1, LIMITS)
    found = run.verdict()
    assert found is not None and found.rank == 1


def test_a_silent_main_rank_is_lost_at_the_place_that_it_last_reported() -> None:
    main = MainRank(heard_at=0.0)
    assert main.died() == Verdict("rank 0 died; it was last in an unknown place", 0)
    main.hear({"main": "backward of step 3 on node0"}, 10.0)
    main.hear({"where": True}, 20.0)
    assert main.verdict(20.0 + LIMITS.silent_seconds, LIMITS) is None
    place = "last in backward of step 3 on node0"
    sentence = f"rank 0 was not heard from for 60 s, {place}; its process or node hangs"
    assert main.verdict(20.1 + LIMITS.silent_seconds, LIMITS) == Verdict(sentence, 0)
    assert main.died() == Verdict("rank 0 died; it was last in backward of step 3 on node0", 0)


def test_places() -> None:
    assert place_of({"phase": "building", "step": -1}) == "building"
    assert place_of({"phase": "saving", "step": 0}) == "saving of step 0"
