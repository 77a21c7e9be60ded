"""What a drill's report says of evidence that is made up here, and how it is exported."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np

from api.drills import exports
from api.drills.compare import differences
from api.drills.judge import Had, judge
from api.drills.model import Report
from api.operations.model import Event
from appliance.config_drill import Objective
from appliance.drill.accounts import Change
from appliance.drill.evidence import NOTHING, Evidence
from appliance.drill.sendlog import Load, SendLog
from appliance.schema import DRILL_DOMAINS

SECOND = 10**9
T0 = 1_767_229_200 * SECOND
DOMAIN = DRILL_DOMAINS[0]
AHEAD = 3 * SECOND
"""The client's clock is behind those of the nodes."""
LATE = 200_000
"""ns that each datagram takes."""


def log(sent: int = 1000) -> SendLog:
    """A datagram a millisecond."""
    at = np.arange(sent, dtype=np.int64) * 1_000_000
    load = Load(DOMAIN, ("ipfix",), 2, 100, "192.0.2.9", "192.0.2.100", 4739)
    return SendLog(load, at, T0 - AHEAD + at, np.ones(sent, np.int64))


def had(
    numbers: list[int], held: bool, twice: tuple[int, ...] = (), others: tuple[Change, ...] = ()
) -> Had:
    number = np.array(numbers, np.int64)
    times = np.where(np.isin(number, twice), 2, 1).astype(np.int64)
    total = int(times.sum())
    mine = Change(("192.0.2.9", "IPFIX", DOMAIN), total, 2 * total, 0, 0, 0)
    received = T0 + number * 1_000_000 + LATE
    evidence = Evidence(("192.0.2.9",), number, times, received, 0, None)
    durable = T0 + 900 * 1_000_000
    return Had(evidence, received, durable, [mine, *others], held)


def test_figures_are_of_the_fault_whatever_the_clock_of_the_client() -> None:
    one = had([*range(500)], True, twice=(7,))
    two = had([*range(490, 500), *range(520, 1000)], False)
    fault = T0 + 495 * 1_000_000
    found = judge(log(), {"n1": one, "n2": two}, fault, Objective(kind="partition", gap_ms=15))
    figures = found.figures
    names = ("sent", "stored", "lost", "duplicated", "on_several_nodes")
    assert [figures[name] for name in names] == [1000, 980, 20, 1, 10]
    (hole,) = figures["holes"]
    # the quickest datagram took 0.2 ms, so that much the clock of the client is taken to be ahead
    assert (hole.after_fault_ms, hole.datagrams, hole.gap_ms) == (5.2, 20, 20.0)
    assert figures["first_datagram_ms"] == 0.2
    assert figures["first_flow_ms"] == 405.0
    assert found.exceeded == ["a gap of 20.0 ms, 15 allowed"]
    assert found.problems == []
    assert sum(figures["series"].sent) == 1000


def test_a_ledger_that_does_not_agree_is_a_problem() -> None:
    one = had([*range(1000)], True)
    wrong = Change(("192.0.2.9", "IPFIX", DOMAIN), 1001, 2000, 0, 0, 0)
    found = judge(
        log(), {"n1": Had(one.evidence, one.received_ns, None, [wrong], True)}, T0,
        Objective(kind="haproxy-stop", lost=0),
    )  # fmt: skip
    assert found.exceeded == []
    assert found.problems == [
        "n1: 1001 datagrams received by its ledger, 1000 in its store and 0 named losses"
    ]
    assert "no other node" in found.unmeasured["first_datagram_ms"]
    assert found.figures["first_flow_ms"] is None


def test_nothing_that_came_is_no_figure_of_anything() -> None:
    nothing = Had(NOTHING, NOTHING.received_ns, None, None, True)
    found = judge(log(), {"n1": nothing}, T0, Objective(kind="switchover", first_datagram_ms=5))
    assert found.problems == ["no node has anything of the load"]
    assert (found.figures["lost"], found.figures["first_datagram_ms"]) == (1000, None)
    assert found.exceeded == ["no other node has taken over"]


def test_losses_of_other_exporters_are_claimed_only_where_their_numbers_go_on() -> None:
    router = ("192.0.2.1", "NETFLOW_V9", 0)
    one = had([*range(500)], True, others=(Change(router, 10, 20, 3, 0, 1),))
    two = had([*range(500, 1000)], False, others=(Change(router, 12, 24, 9000, 0, 0),))
    found = judge(log(), {"n1": one, "n2": two}, T0, Objective(kind="partition"))
    others = found.figures["others"]
    assert [(o.node, o.received, o.named_losses, o.sequence_lost) for o in others] == [
        ("n1", 10, 1, 3),
        ("n2", 12, 0, None),
    ]


def report(**changes: Any) -> Report:
    one = had([*range(500)], True)
    two = had([*range(520, 1000)], False)
    objective = Objective(kind="keepalived-stop", gap_ms=15)
    found = judge(log(), {"n1": one, "n2": two}, T0 + 495 * 1_000_000, objective)
    values: dict[str, Any] = {
        "id": "18bd2c7a5f3e1a00-5d41", "kind": "keepalived-stop", "vip": "v1", "cluster": "<lab>",
        "by": "tests", "source": "a|b", "domain": DOMAIN, "rate": 1000, "before": "n1",
        "after": "n2", "fault_ns": T0 + 495 * 1_000_000, "detection_ms": None, "vip_move_ms": 12.5,
        "restored_ms": 400.0, "clock_uncertainty_ms": 0.3,
        "unmeasured": {"detection_ms": "no node took notice"}, "objective": objective.model_dump(),
        "exceeded": found.exceeded, "problems": found.problems, "passed": not found.exceeded,
        "events": [Event(time_ns=T0, text="begun"), Event(time_ns=T0 + SECOND, text="<ended>")],
    }  # fmt: skip
    return Report(**(values | found.figures | changes))


def test_exports_have_the_figures_and_say_why_some_are_missing() -> None:
    one = report()
    markdown = exports.markdown(one)
    assert "| until a node took notice | not measured: no node took notice |" in markdown
    assert "| lost | 20 |" in markdown
    assert "Missed: a gap of 20.0 ms, 15 allowed." in markdown
    suite = ElementTree.fromstring(exports.junit(one))
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert (properties["lost"], properties["vip_move_ms"]) == ("20", "12.5")
    assert "detection_ms" not in properties
    page = exports.html(one)
    assert "&lt;lab&gt;" in page
    assert "<lab>" not in page
    assert page.count("<polyline") == 3
    assert ElementTree.fromstring(exports.junit(report(exceeded=[]))).get("failures") == "0"


def test_two_reports_are_compared() -> None:
    found = {d.name: d for d in differences(report(), report(lost=5, vip_move_ms=None))}
    assert (found["lost"].one, found["lost"].other, found["lost"].change) == (20, 5, -15)
    assert (found["vip_move_ms"].other, found["vip_move_ms"].change) == (None, None)
