"""Drills between nodes with real keepalived and real collectors: reports that are true."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.integration.cluster import Node, start
from tests.integration.drills import PROBE, DrillLab, usable
from tests.integration.harness import wait_for
from tests.integration.vips import command

pytestmark = [
    pytest.mark.skipif(not usable(), reason="needs root, keepalived and nftables"),
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrillLab]:
    lab = DrillLab(tmp_path_factory.mktemp("lab"))
    try:
        lab.start()
        yield lab
    finally:
        lab.close()


@pytest.fixture
def lab(whole: DrillLab) -> Iterator[DrillLab]:
    """With all well, and a client."""
    if whole.client is None:
        whole.start_client()
    start(*whole.nodes.values())
    for node in whole.nodes.values():
        wait_for(lambda: dry(node, "keepalived-stop")["ok"], 60, "all well")  # noqa: B023
    yield whole
    whole.nodes["n1"].request("DELETE", "/v1/pause")


def dry(node: Node, kind: str, **wanted: Any) -> Any:
    body = {"kind": kind, "vip": "v1", "dry_run": True, **wanted}
    status, document = node.request("POST", "/v1/drills", body=body)
    assert status == 200, document
    return document


def begin(node: Node, kind: str, **wanted: Any) -> Any:
    body = {"kind": kind, "vip": "v1", "seconds": 8, "rate": 500, **wanted}
    status, document = node.request("POST", "/v1/drills", body=body)
    assert status == 202, document
    return document


def ended(node: Node, operation: Any, seconds: float = 120) -> Any:
    path = f"/v1/drills/{operation['id']}"
    wait_for(
        lambda: node.get(path)["operation"]["ended_ns"] is not None,
        seconds,
        lambda: str(node.get(path)["operation"]["events"]),
        0.2,
    )
    return node.get(path)


def check(lab: DrillLab, report: Any) -> None:
    """The figures of a report against the stores, counted in another way."""
    since = report["series"]["begin_ns"] - 5 * 10**9
    found = {n: lab.numbers(n, report["domain"], since) for n in lab.nodes}
    times = {
        n: np.bincount(numbers, minlength=2 * report["sent"]).reshape(-1, 2).min(axis=1)
        for n, numbers in found.items()
    }
    on = sum((t > 0).astype(int) for t in times.values())
    assert report["lost"] == int((on == 0).sum())
    assert report["stored"] == report["sent"] - report["lost"]
    assert report["on_several_nodes"] == int((on > 1).sum())
    for node in report["nodes"]:
        mine = times[node["node"]]
        assert node["stored"] == int((mine > 0).sum())
        assert node["received"] == int(mine.sum()), "the ledger agrees"
    assert report["duplicated"] == sum(int((t[t > 0] - 1).sum()) for t in times.values())
    assert sum(h["datagrams"] for h in report["holes"]) == report["lost"]
    assert sum(report["series"]["sent"]) == report["sent"]
    for name, values in report["series"]["stored"].items():
        assert sum(values) == int((times[name] > 0).sum())


@pytest.mark.parametrize("kind", ["switchover", "keepalived-stop"])
def test_a_drill_moves_the_vip_and_its_report_is_what_the_stores_say(
    lab: DrillLab, kind: str
) -> None:
    old = lab.holder("v1")
    new = lab.other(old).name
    drill = ended(lab.nodes[old], begin(lab.nodes[old], kind))
    operation, report = drill["operation"], drill["report"]
    assert operation["state"] == "succeeded", operation
    assert (report["before"], report["after"], report["kind"]) == (old, new, kind)
    assert report["exporters"] == ["10.99.0.9"]
    assert report["sent"] == pytest.approx(4000, rel=0.05)
    check(lab, report)
    assert report["problems"] == []
    assert report["passed"] == (report["exceeded"] == [])
    assert 0 < report["vip_move_ms"] < 3000
    assert -5 < report["first_datagram_ms"] < 3000
    assert report["first_datagram_ms"] < report["first_flow_ms"] < 6000
    assert (report["detection_ms"] is None) == (kind == "switchover")
    assert all(report[n] is not None for n in report if n.endswith("_ms") and n != "detection_ms")
    assert operation["figures"]["lost"] == report["lost"]
    # nothing of it is left, and every node has the report
    for node in lab.nodes.values():
        wait_for(lambda: node.get(f"/v1/drills/{report['id']}")["report"] == report, 5, "known")  # noqa: B023
        assert node.get("/v1/node")["drain"] == {"node": False, "vips": []}
        assert node.get("/v1/flows/top?by=exporter&last=10m")["total"]["flows"] == 0
    assert any(
        row["domain"] == report["domain"] for row in lab.nodes[new].get("/v1/ledger")["rows"]
    ), "accounting stays true"


def test_what_is_lost_is_said_to_be_lost(lab: DrillLab) -> None:
    """A collector without sockets that outlive it: killed, it loses what comes meanwhile."""
    old = lab.holder("v1")
    drill = ended(lab.other(old), begin(lab.other(old), "collector-kill"))
    report = drill["report"]
    assert drill["operation"]["state"] == "succeeded", drill["operation"]
    assert report["lost"] > 100
    check(lab, report)
    assert not report["passed"]
    assert report["exceeded"] == [f"{report['lost']} datagrams lost, 0 allowed"]
    (hole,) = report["holes"]
    assert hole["gap_ms"] == report["longest_gap_ms"]
    assert hole["datagrams"] == pytest.approx(hole["gap_ms"] / 2, abs=20)
    assert (report["before"], report["after"]) == (old, old)
    assert report["vip_move_ms"] is None
    assert "stayed" in report["unmeasured"]["vip_move_ms"]


def test_a_node_that_is_to_be_cut_off_lets_another_do_the_drill(lab: DrillLab) -> None:
    old = lab.holder("v1")
    new = lab.other(old)
    operation = begin(lab.nodes[old], "partition", seconds=10)
    assert operation["node"] == new.name
    drill = ended(new, operation)
    report = drill["report"]
    assert drill["operation"]["state"] == "succeeded", drill["operation"]
    assert report["before"] == old
    check(lab, report)
    assert report["problems"] == []
    assert report["vip_move_ms"] > 0
    assert report["lost"] > 0, "behind a live link it takes some adverts"
    assert (lab.nodes[old].folder / "active.json").exists() is False


def test_the_preflight_says_why_not(lab: DrillLab) -> None:
    node, other = lab.nodes.values()

    def why(**wanted: Any) -> str:
        checks = dry(node, **{"kind": "switchover", **wanted})["checks"]
        return "; ".join(c["detail"] for c in checks if not c["ok"])

    assert why() == ""
    assert "forbidden" not in why(kind="partition")
    assert "drill.max_rate" in why(rate=50_000)
    assert "a load has at most" in why(rate=50_000, seconds=60)
    assert "drill.fence" in why(kind="node-kill")
    assert "tandem drill client --name" in why(source="nobody")
    holder = lab.holder("v1")
    assert "holds the VIP" in why(source=holder)
    assert "would take over" in why(source=lab.other(holder).name)
    assert command(node, "pause", "--reason", "work").returncode == 0
    assert "paused" in why()
    status, problem = node.request("POST", "/v1/drills", body={"kind": "switchover", "vip": "v1"})
    assert (status, problem["type"]) == (409, "urn:problem-type:tandem:paused")
    assert command(node, "pause", "--undo").returncode == 0
    other.health("hung")
    wait_for(lambda: "does not collect" in why(), 5, why)
    status, problem = node.request("POST", "/v1/drills", body={"kind": "switchover", "vip": "v1"})
    assert (status, problem["type"]) == (409, "urn:problem-type:tandem:preflight")
    other.health("ok")
    wait_for(lambda: why() == "", 5, why)
    lab.end_client()
    wait_for(lambda: "no client" in why(), 10, why)


def test_a_client_that_does_not_send_ends_the_drill_before_the_fault(lab: DrillLab) -> None:
    node = lab.nodes["n1"]
    assert lab.client is not None
    # it has asked a moment ago, so it is taken to be there
    lab.client.send_signal(signal.SIGSTOP)
    try:
        drill = ended(node, begin(node, "keepalived-stop"))
    finally:
        lab.client.send_signal(signal.SIGCONT)
    assert drill["operation"]["state"] == "failed"
    assert "has not begun to send" in drill["operation"]["problem"]
    assert "keepalived-stop of" not in str(drill["operation"]["events"])


def test_only_nodes_see_what_nodes_ask_of_each_other(lab: DrillLab) -> None:
    node = lab.nodes[lab.holder("v1")]
    for method, path in (
        ("GET", "account"),
        ("GET", "evidence?domain=1&records=2&since_ns=0&after_ns=0"),
        ("PUT", "fault?kind=keepalived-stop&seconds=5"),
        ("DELETE", "fault"),
    ):
        assert node.request(method, f"/v1/drill-node/{path}")[0] == 404, path
    done = node.get("/v1/drills")[0]["id"]
    handed = node.request("PUT", f"/v1/drill-clients/other/loads/{done}", body={"problem": "no"})
    assert handed[0] == 404, "it was not ordered from that one"
    assert node.request("GET", "/v1/drill-clients/n1/order")[0] == 422, "that is a node"


@pytest.mark.parametrize("victim", ["holder", "other"])
def test_an_api_that_dies_half_way_leaves_no_fault(lab: DrillLab, victim: str) -> None:
    old = lab.nodes[lab.holder("v1")]
    doer = old if victim == "holder" else lab.other(old.name)
    operation = begin(doer, "keepalived-stop", seconds=8)
    log = old.folder / "systemctl.log"
    before = log.read_text().count("stop --no-block keepalived")
    wait_for(
        lambda: log.read_text().count("stop --no-block keepalived") > before, 20, "the fault", 0.01
    )
    doer.kill()
    wait_for(lambda: not (old.folder / "active.json").exists(), 15, "it is undone")
    wait_for((old.folder / "keepalived.pid").exists, 5, "keepalived is there again")
    start(doer)
    lab_drill = ended(doer, operation, 60)
    assert (lab_drill["operation"]["state"], lab_drill["report"]) == ("failed", None)


def test_the_command_line_runs_shows_and_compares(lab: DrillLab) -> None:
    node = lab.nodes["n1"]
    assert command(node, "drill", "run", "switchover", "--vip", "v1", "--dry-run").returncode == 0
    done = command(node, "drill", "run", "switchover", "--vip", "v1", "--seconds", "8",
                   "--rate", "200")  # fmt: skip
    listed = json.loads(command(node, "drill", "list", "--json").stdout)
    newest = listed[0]
    assert done.returncode == (0 if newest["figures"]["passed"] else 1), done.stdout + done.stderr
    assert f"{PROBE} is to send 200 datagrams/s" in done.stdout
    assert "datagrams sent" in done.stdout
    ids = [one["id"] for one in listed if one["state"] == "succeeded"][:2]
    shown = command(node, "drill", "show", ids[0]).stdout
    assert shown.startswith(f"# Drill {ids[0]}: switchover of")
    suite = ElementTree.fromstring(
        command(node, "drill", "show", ids[0], "--format", "junit").stdout
    )
    assert suite.get("tests") == "1"
    page = command(node, "drill", "show", ids[0], "--format", "html").stdout
    assert "<svg" in page
    assert "<script" not in page
    if len(ids) > 1:
        compared = command(node, "drill", "diff", *ids)
        assert "longest gap ms" in compared.stdout
    assert command(node, "drill", "show", "nothing").returncode == 1
