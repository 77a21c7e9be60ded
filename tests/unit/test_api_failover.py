from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.drain_files import DrainFiles
from api.failover import Tracker, Trouble
from api.history import History
from api.views import Transition

SECOND = 10**9


def transition(number: int, cause: str = "drain") -> Transition:
    return Transition(
        time_ns=number, node="n1", vip="v1", before="active", after="standby", cause=cause
    )


def numbers(path: Path, most: int = 1000) -> list[int]:
    return [t.time_ns for t in History(path, most).all()]


def test_the_history_is_read_back_and_the_later_line_of_a_transition_holds(tmp_path: Path) -> None:
    path = tmp_path / "failover.jsonl"
    history = History(path)
    history.put(transition(1, "unknown"))
    history.put(transition(2))
    history.put(transition(1, "health"))
    history.close()
    assert json.loads(path.read_text().splitlines()[0])["from"] == "active"
    assert [(t.time_ns, t.cause) for t in History(path).all()] == [(1, "health"), (2, "drain")]


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "failover.jsonl"
    history = History(path)
    history.put(transition(1))
    history.put(transition(2))
    history.close()
    path.write_bytes(path.read_bytes()[:-20])
    again = History(path)
    again.put(transition(3))
    again.close()
    assert numbers(path) == [1, 3]
    path.write_bytes(b"\xff\x00 nonsense\n" + path.read_bytes())
    assert numbers(path) == [1, 3]


def test_the_history_is_bounded_in_memory_and_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "failover.jsonl"
    history = History(path, most=10)
    for number in range(95):
        history.put(transition(number))
    history.close()
    assert [t.time_ns for t in history.all()] == list(range(85, 95))
    assert numbers(path, 10) == list(range(85, 95))
    assert len(path.read_text().splitlines()) <= 20


def test_a_folder_that_is_not_there_is_no_reason_to_stop(tmp_path: Path) -> None:
    history = History(tmp_path / "none" / "failover.jsonl")
    history.put(transition(1))
    history.close()
    assert len(history.all()) == 1


class Told:
    """A tracker with a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100 * SECOND
        self.tracker = Tracker("n1", History(None), lambda: self.now)

    def cause(self) -> str:
        self.tracker.tick()
        return self.tracker.history.all()[-1].cause

    def changed(self, held: bool, first: bool = False) -> None:
        self.tracker.changed("v1", held, self.now, first)


@pytest.mark.parametrize(
    ("troubles", "cause"),
    [
        ([], "unknown"),
        ([Trouble("n1", "drain")], "drain"),
        ([Trouble("n1", "drain", vip="v1")], "drain"),
        ([Trouble("n1", "drain", vip="v2")], "unknown"),
        ([Trouble("n1", "keepalived stopped"), Trouble("n1", "health", "hung")], "health"),
        ([Trouble("n2", "peer unhealthy", "n2: hung")], "unknown"),
        ([Trouble("n1", "partition healed", "n2")], "partition healed"),
    ],
)
def test_a_vip_is_lost_for_what_is_the_matter_here(troubles: list[Trouble], cause: str) -> None:
    told = Told()
    for trouble in troubles:
        told.tracker.trouble(trouble)
    told.changed(False)
    assert told.cause() == cause


def test_a_vip_is_gained_for_what_is_the_matter_with_the_one_that_had_it() -> None:
    told = Told()
    told.tracker.elsewhere("n2", "v1")
    told.tracker.trouble(Trouble("n3", "peer draining", "n3", told=True))
    told.changed(True)
    assert told.cause() == "unknown"
    told.now += 2 * SECOND  # it takes a moment until it is known
    told.tracker.trouble(Trouble("n2", "peer unreachable", "n2", told=True))
    assert told.cause() == "peer unreachable"
    told.now += 3 * SECOND  # too late to have been the cause
    told.tracker.tick()
    told.tracker.trouble(Trouble("n2", "peer draining", "n2", told=True))
    assert told.cause() == "peer unreachable"


def test_what_the_node_that_lost_it_says_counts_most() -> None:
    told = Told()
    told.tracker.elsewhere("n2", "v1")
    told.tracker.trouble(Trouble("n2", "peer draining", "n2", told=True))
    loss = transition(told.now - SECOND, "health")
    told.tracker.lost([loss.model_copy(update={"node": "n2", "detail": "hung"})])
    told.changed(True)
    assert told.cause() == "peer unhealthy"
    assert told.tracker.history.all()[-1].detail == "n2: hung"


def test_what_is_over_for_a_while_is_not_the_cause() -> None:
    told = Told()
    told.tracker.trouble(Trouble("n1", "drain"))
    told.now += 2 * SECOND
    told.changed(False)
    assert told.cause() == "unknown"


def test_the_first_look_is_a_start_and_no_transition_is_counted() -> None:
    told = Told()
    told.changed(False, first=True)
    assert told.tracker.history.all() == []
    told.changed(True)
    assert (told.cause(), told.tracker.count["v1"]) == ("start", 1)
    again = Told()
    again.changed(True, first=True)
    assert (again.cause(), again.tracker.count["v1"]) == ("start", 0)
    assert again.tracker.history.all()[0].before == "unknown"


def test_drain_files_are_made_kept_and_repaired(tmp_path: Path) -> None:
    files = DrainFiles(tmp_path, ["v1"])
    assert int((tmp_path / "drain").read_text()) == 0
    files.set("v1", True)
    assert int((tmp_path / "drain-v1").read_text()) == -100
    assert DrainFiles(tmp_path, ["v1"]).view.vips == ["v1"]
    (tmp_path / "drain-v1").write_text("")
    assert DrainFiles(tmp_path, ["v1"]).view.vips == []
    assert int((tmp_path / "drain-v1").read_text()) == 0


def test_a_drain_that_cannot_be_written_is_not_claimed(tmp_path: Path) -> None:
    files = DrainFiles(tmp_path / "none", ["v1"])
    with pytest.raises(OSError, match="none"):
        files.set(None, True)
    assert files.view.node is False
