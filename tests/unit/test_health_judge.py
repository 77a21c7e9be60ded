"""The verdict on a collector: from what is seen of its shards, without a process or a clock."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.health.judge import RULES, Judge, Sight, State, Verdict, causes

PERIOD = 0.1
HUNG = 0.5
WELL = Sight(served=True, known=True, proven=True, overdue=0.0, unproven=0.1)


def unserved(seconds: float, known: bool = True) -> Sight:
    return Sight(False, known, False, 0.0, seconds)


def unanswered(seconds: float) -> Sight:
    return Sight(True, True, False, seconds, seconds)


def overdue(seconds: float) -> Sight:
    return Sight(True, True, True, seconds, seconds + 0.1)


def failing(seconds: float, overdue: float = 0.0) -> Sight:
    return Sight(True, True, True, overdue, 0.1 + overdue, errno.ENOSPC, seconds, "store")


class Node:
    """A judge, and a time that goes on by a period a look."""

    def __init__(self, value: int = 0) -> None:
        self.judge = Judge(HUNG, value)
        self.now = 1000.0

    def look(self, *sights: Sight, seconds: float = PERIOD) -> Verdict:
        """The verdict after seeing the same for so long."""
        for _ in range(round(seconds / PERIOD)):
            self.now += PERIOD
            verdict = self.judge.judge(self.now, sights)
        return verdict


def states(verdict: Verdict) -> tuple[State, int]:
    return verdict.state, verdict.value


def test_a_node_that_was_healthy_is_so_with_the_first_proof() -> None:
    assert states(Node(0).look(WELL, WELL)) == (State.OK, 0)


def test_a_node_that_was_not_has_to_prove_itself_first() -> None:
    node = Node(-150)
    assert states(node.look(WELL, seconds=1.9)) == (State.STARTING, -150)
    assert states(node.look(WELL, seconds=0.3)) == (State.OK, 0)


def test_a_collector_that_never_starts_loses_the_value_after_the_grace() -> None:
    node = Node(0)
    assert states(node.look(unserved(4.9, known=False))) == (State.STARTING, 0)
    assert states(node.look(unserved(5.0, known=False))) == (State.STARTING, -150)


@pytest.mark.parametrize("sick", [unserved, unanswered])
def test_a_restart_within_the_grace_moves_nothing(sick: object) -> None:
    node = Node(0)
    node.look(WELL)
    assert node.look(WELL, unserved(1.0)).value == 0
    assert node.look(WELL, Sight(True, True, False, 0.3, 3.0)).value == 0
    assert states(node.look(WELL, WELL)) == (State.OK, 0)


def test_one_shard_that_hangs_is_enough_and_is_named() -> None:
    node = Node(0)
    assert node.look(WELL, overdue(0.5)).value == 0
    verdict = node.look(WELL, overdue(0.6))
    assert states(verdict) == (State.HUNG, -150)
    assert verdict.reason == "shard 1 does not answer, for 0.6 s"


def test_a_process_that_restarts_in_a_loop_has_one_grace() -> None:
    node = Node(0)
    assert node.look(Sight(True, True, False, 0.1, 4.9)).value == 0
    assert states(node.look(Sight(True, True, False, 0.1, 5.0))) == (State.STARTING, -150)


def test_a_full_disk_has_its_own_value_even_where_nothing_can_be_answered() -> None:
    node = Node(0)
    node.look(WELL)
    assert node.look(WELL, failing(1.9, overdue=1.9)).value == 0
    verdict = node.look(WELL, failing(2.0, overdue=2.0))
    assert states(verdict) == (State.DISK_FULL, -50)
    assert "shard 1 cannot write its store: No space left on device" in verdict.reason


def test_a_hung_shard_counts_for_more_than_a_full_disk() -> None:
    assert states(Node(0).look(failing(9.0), overdue(1.0))) == (State.HUNG, -150)


@pytest.mark.parametrize(
    ("sick", "proof"), [(overdue(1.0), 2.0), (failing(3.0), 5.0), (unserved(6.0), 2.0)]
)
def test_the_way_back_takes_continuous_proof(sick: Sight, proof: float) -> None:
    node = Node(0)
    node.look(WELL)
    bad = node.look(sick).value
    assert bad < 0
    assert node.look(WELL, seconds=proof - 0.1).value == bad
    node.look(sick)
    assert node.look(WELL, seconds=proof - 0.1).value == bad
    assert node.look(WELL, seconds=0.3).value == 0


sights = st.builds(
    Sight,
    served=st.booleans(),
    known=st.booleans(),
    proven=st.booleans(),
    overdue=st.sampled_from([0.0, 0.2, 0.5, 0.7, 3.0]),
    unproven=st.sampled_from([0.1, 1.0, 4.9, 5.0, 20.0]),
    error=st.sampled_from([0, errno.ENOSPC, errno.EIO]),
    error_lasted=st.sampled_from([0.0, 1.9, 2.0, 10.0]),
    where=st.just("journal"),
)


@given(
    value=st.sampled_from([0, -50, -150]),
    looks=st.lists(st.tuples(st.lists(sights, min_size=1, max_size=3), st.integers(1, 60))),
)
def test_no_value_is_worse_than_a_cause_or_better_than_the_proof(
    value: int, looks: Sequence[tuple[list[Sight], int]]
) -> None:
    node = Node(value)
    in_force, proven = value, 0.0
    rules = node.judge.rules
    for seen, times in looks:
        for _ in range(times):
            verdict = node.look(*seen)
            found = list(causes(seen, rules))
            ripe = {rules[c.state].value for c in found if c.lasted >= rules[c.state].patience}
            proven = 0.0 if found else proven + PERIOD
            if verdict.value < in_force:
                assert verdict.value in ripe
            if ripe:
                assert verdict.value == min(ripe)
            elif verdict.value > in_force:
                assert verdict.state is State.OK
                least = min(r.proof for r in RULES.values() if r.value == in_force)
                assert proven > least - PERIOD / 2
            if not found and proven > max(r.proof for r in RULES.values()) + 2 * PERIOD:
                assert verdict.value == 0
            in_force = verdict.value
