"""The judge says exactly what was lost, where and for how long, of loads that real collectors got.

Between sender and collectors is a network that loses, doubles and diverts what it is told to.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.drill.sendlog import SendLog
from appliance.drill.streams import PROTOCOLS
from measure.judge import judge
from measure.judgement import Judgement, Limits
from tests.integration.harness import Collector
from tests.unit.measure_tools import SETTLE_SECONDS, Route, collectors, send_through

ALL = tuple(PROTOCOLS)
RUNS = itertools.count(1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Collector]]:
    """Two collectors; each load is a run of its own."""
    with collectors(tmp_path_factory.mktemp("nodes"), 2) as made:
        yield made


@pytest.fixture
def ports(two: list[Collector]) -> tuple[int, int]:
    return two[0].port, two[1].port


class Lab:
    """The two collectors, and a load through the network to them, judged."""

    def __init__(self, nodes: list[Collector], directory: Path) -> None:
        self.nodes = {f"n{i}": node.data for i, node in enumerate(nodes, 1)}
        self.log = directory / "log.npz"

    def send(self, route: Route, count: int, **options: Any) -> SendLog:
        return send_through(route, self.log, count, run=next(RUNS), **options)

    def judge(self, **options: Any) -> Judgement:
        return judge([self.log], self.nodes, settle_seconds=SETTLE_SECONDS, **options)


@pytest.fixture
def lab(two: list[Collector], tmp_path: Path) -> Lab:
    return Lab(two, tmp_path)


def test_a_whole_load_of_every_protocol_is_found(lab: Lab, ports: tuple[int, int]):
    sent = lab.send(lambda i: [ports[0]], 2000, protocols=ALL).sent
    found = lab.judge(limits=Limits(max_lost=0, max_gap_ms=0))
    assert found.passed, found.text()
    assert (found.sent, found.stored, found.lost) == (sent, sent, 0)
    assert [s.protocol for s in found.loads[0].nodes["n1"].ledger] == list(ALL)
    assert found.loads[0].nodes["n2"].ledger == []


def test_runs_on_the_same_node_are_told_apart(lab: Lab, ports: tuple[int, int], tmp_path: Path):
    logs = [tmp_path / "1.npz", tmp_path / "2.npz"]
    sent = [send_through(lambda i: [ports[0]], log, 300, run=next(RUNS)).sent for log in logs]
    both = judge(logs, lab.nodes, settle_seconds=SETTLE_SECONDS)
    assert (both.passed, both.sent, both.stored) == (True, sum(sent), sum(sent))
    assert [load.stored for load in both.loads] == sent


@pytest.mark.parametrize("protocol", ALL)
def test_losses_are_counted_and_the_ledger_has_the_same(
    lab: Lab, ports: tuple[int, int], protocol: str
):
    lost = {*range(500, 601), 700, *range(800, 803)}
    sent = lab.send(lambda i: [] if i in lost else [ports[0]], 1000, protocols=(protocol,))
    found = lab.judge(limits=Limits(max_lost=104))
    assert found.consistent, found.text()
    assert found.exceeded == ["105 datagrams lost, 104 allowed"]
    (load,) = found.loads
    assert [(h.first, h.datagrams) for h in load.holes] == [(500, 101), (700, 1), (800, 3)]
    assert (load.lost_unclaimed, load.lost_records) == (0, 210)
    times = sent.sent_monotonic_ns
    assert found.longest_gap_ms == pytest.approx((times[601] - times[500]) / 1e6, abs=0.001)
    (ledger,) = load.nodes["n1"].ledger
    assert ledger.missing == 105
    assert ledger.sequence_lost == 105 * PROTOCOLS[protocol].units(2)


def test_a_takeover_with_a_hole_is_placed_in_time(lab: Lab, ports: tuple[int, int]):
    def route(i: int) -> list[int]:
        return [ports[0]] if i < 900 else [] if i < 1000 else [ports[1]]

    log = lab.send(route, 1500)
    times = log.sent_wall_ns
    event = int(times[890]) + 1
    found = lab.judge(event_ns=event)
    assert found.passed, found.text()
    (load,) = found.loads
    assert (found.lost, load.lost_unclaimed, found.on_two_nodes) == (100, 100, 0)
    assert [node.stored for node in load.nodes.values()] == [900, log.sent - 1000]
    (hole,) = load.holes
    assert hole.after_event_ms == pytest.approx((times[900] - event) / 1e6, abs=0.001)
    takeover = load.takeover
    assert takeover is not None
    assert (takeover.old, takeover.new) == ("n1", "n2")
    assert takeover.last_on_old_ms == pytest.approx((times[899] - event) / 1e6, abs=0.001)
    assert takeover.first_sent_ms == pytest.approx((times[1000] - event) / 1e6, abs=0.001)
    assert found.takeover_ms == takeover.first_received_ms
    assert found.takeover_ms is not None
    assert takeover.first_sent_ms is not None
    assert takeover.first_sent_ms < found.takeover_ms < takeover.first_sent_ms + 1000


def test_a_switch_there_and_back_is_claimed_by_the_ledgers(lab: Lab, ports: tuple[int, int]):
    """The first node's own range spans the other's part; the other begins without a template."""
    lost = {*range(1101, 1111), *range(1450, 1460)}

    def route(i: int) -> list[int]:
        return [] if i in lost else [ports[1001 <= i < 1501]]

    lab.send(route, 2000)
    found = lab.judge()
    assert found.passed, found.text()
    (load,) = found.loads
    assert (found.lost, load.lost_unclaimed) == (20, 0)
    assert [s.sequence_lost for s in load.nodes["n1"].ledger] == [500, 250]
    ipfix, v9 = load.nodes["n2"].ledger
    assert (ipfix.missing, v9.missing) == (10, 10)
    # IPFIX: what was lost before its first template there is claimed only if both came at once
    assert (ipfix.sequence_lost in (10, 20), v9.sequence_lost) == (True, 10)


def test_what_waits_for_its_template_is_no_loss(lab: Lab, ports: tuple[int, int]):
    """A node that had the VIP for a moment, in which no template came."""
    part = range(1101, 1111)

    lab.send(lambda i: [ports[i in part]], 1500)
    found = lab.judge(limits=Limits(max_lost=0))
    assert found.passed, found.text()
    assert (found.lost, found.held, found.stored) == (0, len(part), found.sent - len(part))


def test_what_both_nodes_have_is_no_loss_and_no_fault(lab: Lab, ports: tuple[int, int]):
    lab.send(lambda i: [ports[0]] * (i < 600) + [ports[1]] * (i >= 500), 1000)
    found = lab.judge(limits=Limits(max_lost=0))
    assert found.passed, found.text()
    assert (found.stored_twice, found.on_two_nodes) == (0, 100)


def test_a_datagram_stored_twice_at_one_node_is_a_fault(lab: Lab, ports: tuple[int, int]):
    log = lab.send(lambda i: [ports[0]] * (2 if i in (300, 500) else 1), 700)
    found = lab.judge()
    assert found.stored_twice == 2
    assert found.problems == [f"run {log.load.run}: n1: 2 datagrams are stored twice"]


def test_a_takeover_that_does_not_come_exceeds_its_limit(lab: Lab, ports: tuple[int, int]):
    log = lab.send(lambda i: [ports[0]] * (i < 500), 1000)
    event = int(log.sent_wall_ns[400])
    found = lab.judge(event_ns=event, limits=Limits(max_gap_ms=100, max_takeover_ms=100))
    assert found.consistent, found.text()
    assert found.loads[0].holes[0].open
    assert [text.split(" ")[0] for text in found.exceeded] == ["gap", "no"]


def test_the_series_adds_up(lab: Lab, ports: tuple[int, int]):
    sent = lab.send(lambda i: [ports[0]] * (i % 2), 1000, protocols=("v5",)).sent
    series = lab.judge().loads[0].series
    assert (sum(series.sent), sum(series.stored["n1"])) == (sent, sent // 2)
    assert len(series.sent) >= 5


def test_the_command_says_by_its_status_whether_limits_are_met(
    lab: Lab, ports: tuple[int, int], tmp_path: Path
):
    lab.send(lambda i: [ports[0]] * (i != 500), 700)
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "measure", "judge", "--log", str(lab.log), "--settle", "0.8"]
    command += ["--node", f"n1={lab.nodes['n1']}", "--json", str(result), "--max-lost"]
    for limit, status in (("0", 1), ("1", 0)):
        done = subprocess.run([*command, limit], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        assert json.loads(result.read_text())["passed"] is not bool(status)
        assert json.loads(result.read_text())["lost"] == 1
        assert "hole of 1 datagrams" in done.stdout


def test_a_killed_collector_keeps_all_it_received_and_a_segment_that_vanishes_is_noticed(
    tmp_path: Path,
):
    log = tmp_path / "log.npz"
    with collectors(tmp_path, 1) as (node,):
        send_through(lambda i: [node.port], log, 1600, run=1, protocols=("v9",))
        node.kill()
        node.start()
        found = judge([log], {"n1": node.data}, settle_seconds=SETTLE_SECONDS)
        assert found.passed, found.text()
        assert found.lost == 0
        assert node.stop() == 0
        # the ledger says stored, and the store has it not
        sorted((node.data / "store" / "flows").glob("*.arrow"))[1].unlink()
        found = judge([log], {"n1": node.data}, settle_seconds=0)
    assert found.lost > 0
    assert any("records stored by the ledger, and in the store" in p for p in found.problems)
    assert any("lost on the way by the ledger: 0 units" in p for p in found.problems)
