"""The live view: figures from the collector's files, their pictures, and the processes behind."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from appliance.cli import live
from appliance.cli.figures import BRIDGE_NS, Figures
from appliance.cli.processes import Children
from appliance.ledger.counters import COUNTERS
from appliance.state import StateError

SECOND = 10**9


class FakeState:
    """A ledger whose rows are set by the test."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.problem = ""

    def add(self, exporter: str, protocol: str = "NETFLOW_V9", **counts: int) -> None:
        zeros = {c.name: 0 for c in COUNTERS}
        self.rows.append({"exporter": exporter, "protocol": protocol, "domain": 0, **zeros,
                          **counts})  # fmt: skip

    def ledger(self) -> Any:
        if self.problem:
            raise StateError(self.problem)
        return SimpleNamespace(table=SimpleNamespace(to_pylist=lambda: self.rows))


@pytest.fixture
def state() -> FakeState:
    return FakeState()


def node(data_dir: Path, now: int, datagrams: int = 0, **values: Any) -> None:
    listener = {"datagrams": datagrams, "bytes": datagrams * 100, "kernel_dropped": 3}
    document = {"updated_ns": now, "listeners": [listener], "shards": [], **values}
    (data_dir / "node.json").write_text(json.dumps(document))


def text(look, talkers=()) -> str:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(live.picture(look, list(talkers), ["head"]))
    return console.export_text()


def test_rates_are_of_the_time_between_two_looks(tmp_path, state):
    figures = Figures(tmp_path, state)
    node(tmp_path, 0, 1000)
    state.add("10.0.0.1", datagrams_received=1000, records_decoded=20_000)
    assert figures.look(0).datagrams_rate == 0
    node(tmp_path, 2 * SECOND, 1200)
    state.rows.clear()
    state.add("10.0.0.1", datagrams_received=1200, records_decoded=24_000)
    state.add("10.0.0.2", "IPFIX", datagrams_received=10, records_decoded=100)
    look = figures.look(2 * SECOND)
    assert (look.datagrams_rate, look.bits_rate) == (100, 80_000)
    assert [s.records_rate for s in look.senders] == [2000, 50]
    assert look.records_rate == 2050


def test_a_checkpoint_that_comes_late_does_not_make_rates_jump(tmp_path, state):
    figures = Figures(tmp_path, state)
    rates = []
    for second in range(12):
        state.rows.clear()
        written = second // 2 * 2  # the ledger on disk moves every other second
        state.add("10.0.0.1", records_decoded=1000 * written)
        node(tmp_path, second * SECOND, second)
        rates.append(figures.look(second * SECOND).records_rate)
    assert BRIDGE_NS == 5 * SECOND
    assert all(800 <= rate <= 1200 for rate in rates[6:])


def test_counters_that_begin_anew_with_a_worker_are_no_negative_rates(tmp_path, state):
    figures = Figures(tmp_path, state)
    node(tmp_path, 0, 1000)
    figures.look(0)
    node(tmp_path, SECOND, 50)
    assert figures.look(SECOND).datagrams_rate == 50


def test_protocols_and_domains_of_an_exporter_are_one_sender(tmp_path, state):
    node(tmp_path, 0)
    state.add("10.0.0.1", sequence_lost=2, datagrams_held=1, datagrams_malformed_data=4)
    state.add("10.0.0.1", "IPFIX", sequence_lost=3, datagrams_refused=1, datagrams_expired=1)
    look = Figures(tmp_path, state).look(0)
    sender = look.senders[0]
    assert sender.protocols == {"NETFLOW_V9", "IPFIX"}
    assert (look.lost, look.damaged, look.held, look.kernel_dropped) == (5, 6, 1, 3)


def test_what_is_wrong_is_said_in_place_of_figures(tmp_path, state):
    figures = Figures(tmp_path, state)
    assert "tandem run" in figures.look(0).problem
    (tmp_path / "node.json").write_text("{")
    assert "cannot be read" in figures.look(0).problem
    node(tmp_path, 0)
    assert "hangs" in figures.look(60 * SECOND).problem
    state.problem = "checkpoint: torn"
    look = figures.look(0)
    assert look.problem == "checkpoint: torn"
    assert "torn" in live.line(look)
    assert "torn" in text(look)


def test_the_picture_has_rates_losses_senders_and_talkers(tmp_path, state):
    node(tmp_path, 0, shards=[{"lag_seconds": 0.5, "balanced": False}])
    for i in range(14):
        state.add(f"10.0.0.{i}", records_decoded=100 + i, sequence_lost=1)
    look = Figures(tmp_path, state).look(0)
    talker = {"src_addr": "10.9.9.9", "dst_addr": "10.8.8.8", "bps": 1e6, "pps": 5.0,
              "share": 0.5, "unknown": 1}  # fmt: skip
    shown = text(look, [talker])
    for part in ("14 lost on the way", "0.5 s to the store", "ledger does not balance",
                 "10.0.0.13", "and 4 more", "10.9.9.9", "1.00M", "50.0%",
                 "sampling unknown, as sent"):  # fmt: skip
        assert part in shown
    assert "10.0.0.3 " not in shown
    for part in ("14 exporters", "lost on the way 14", "BALANCE"):
        assert part in live.line(look)


def test_a_newcomer_is_told_what_to_do(tmp_path, state):
    node(tmp_path, 0)
    assert "Point an exporter" in text(Figures(tmp_path, state).look(0))


def test_talkers_stay_when_a_later_question_fails():
    answers = iter([[{"src_addr": "a"}]])
    thread = live.TalkersThread(lambda: next(answers), period=0.01)
    deadline = time.monotonic() + 5
    while not thread.asked_in_vain and time.monotonic() < deadline:
        time.sleep(0.01)
    thread.stop()
    assert thread.rows == [{"src_addr": "a"}]
    assert thread.asked_in_vain


def test_children_are_asked_to_end_and_their_words_are_kept():
    children = Children(capture=True)

    def patient() -> int:
        signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(7)))
        os.write(1, b"ready\n")
        time.sleep(60)
        return 0

    children.start("patient", patient)
    children.start("quick", lambda: 3)
    said: list[str] = []
    deadline = time.monotonic() + 10
    while ("ready" not in said or "quick" not in children.ended()) and time.monotonic() < deadline:
        said += children.messages()
        time.sleep(0.01)
    assert said == ["ready"]
    begun = time.monotonic()
    children.stop(10)
    assert time.monotonic() - begun < 5
    assert children.ended() == {"patient": 7, "quick": 3}


def test_a_child_that_does_not_end_is_killed():
    children = Children(capture=False)

    def deaf() -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
        return 0

    children.start("deaf", deaf)
    time.sleep(0.3)
    begun = time.monotonic()
    children.stop(0.3)
    assert time.monotonic() - begun < 5
    assert children.ended() == {"deaf": -signal.SIGKILL}


def test_a_child_that_fails_says_why():
    children = Children(capture=True)

    def broken() -> int:
        raise ValueError("no such thing")

    children.start("broken", broken)
    deadline = time.monotonic() + 10
    while "broken" not in children.ended() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert children.ended() == {"broken": 1}
    assert any("no such thing" in line for line in children.messages())
