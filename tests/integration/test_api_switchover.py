"""Switchovers of real VIPs between nodes with real keepalived processes."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cluster import TOKEN, Node, start, within
from tests.integration.harness import wait_for
from tests.integration.vips import Lab, command

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(shutil.which("keepalived") is None, reason="keepalived is not installed"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        lab.start()
        yield lab
    finally:
        lab.close()


@pytest.fixture
def lab(whole: Lab) -> Iterator[Lab]:
    """With all well before, and whatever was done to it undone afterwards."""
    start(*whole.nodes.values())
    wait_for(lambda: whole.holder("v1") != "", 20, "a holder")
    for node in whole.nodes.values():
        wait_for(lambda: all("HAProxy" in p for p in node.problems()), 20, "all well")  # noqa: B023
        wait_for(lambda: running(node) == [], 60, "nothing runs")  # noqa: B023
        wait_for(lambda: not drained(node), 5, "nothing is drained")  # noqa: B023
    yield whole
    for node in whole.nodes.values():
        if node.process is not None:
            node.signal(signal.SIGCONT)
    start(*whole.nodes.values())
    for operation in running(whole.nodes["n1"]):
        whole.nodes["n1"].request("DELETE", f"/v1/operations/{operation['id']}")
    for name in whole.nodes:
        whole.nodes["n1"].request("DELETE", f"/v1/nodes/{name}/drain")
    whole.nodes["n1"].request("DELETE", "/v1/pause")


def running(node: Node) -> list[Any]:
    return [o for o in node.get("/v1/operations") if o["state"] not in ("succeeded", "failed")]


def drained(node: Node) -> list[str]:
    """The nodes that are, as far as ``node`` knows."""
    found = ((n["name"], n["drain"]) for n in node.get("/v1/cluster")["nodes"])
    return [name for name, drain in found if drain["node"] or drain["vips"]]


def begin(node: Node, key: str | None = None, **wanted: Any) -> tuple[int, Any]:
    headers = {"Idempotency-Key": key} if key else {}
    return node.request("POST", "/v1/switchovers", body={"vip": "v1"} | wanted, **headers)


def ended(node: Node, operation: Any, seconds: float = 20) -> Any:
    assert "id" in operation, operation
    path = f"/v1/operations/{operation['id']}"
    wait_for(lambda: node.get(path)["state"] in ("succeeded", "failed"), seconds,
             lambda: str(node.get(path)))  # fmt: skip
    return node.get(path)


def tracks(lab: Lab) -> dict[str, str]:
    """What keepalived is asked for, where it is not 0."""
    names = ("drain", "drain-v1", "drain-v2")
    return {
        f"{node.name} {name}": value
        for node in lab.nodes.values()
        for name in names
        if (value := node.track(name)) != "0"
    }


@pytest.mark.parametrize("asked", ["holder", "other"])
def test_the_vip_moves_whichever_node_is_asked_and_all_know(lab: Lab, asked: str) -> None:
    old = lab.nodes[lab.holder("v1")]
    new = lab.other(old.name)
    node = old if asked == "holder" else new
    status, operation = begin(node, target=new.name)
    assert (status, operation["state"], operation["node"]) == (202, "queued", node.name)
    found = ended(node, operation)
    assert (found["state"], found["problem"]) == ("succeeded", "")
    figures = found["figures"]
    assert (figures["vip"], figures["from"], figures["to"]) == ("v1", old.name, new.name)
    assert 0 < figures["vip_move_ms"] + figures["clock_uncertainty_ms"] < 5000
    assert [e["text"] for e in found["events"]] == [
        f"{old.name} holds v1",
        f"{old.name} is asked to give v1 up",
        f"{new.name} holds v1",
        "succeeded",
    ]
    assert lab.holder("v1") == new.name
    assert tracks(lab) == {}
    there = lab.other(node.name)
    wait_for(lambda: there.get(f"/v1/operations/{operation['id']}") == found, 5, "the other knows")
    time.sleep(1)
    assert lab.holder("v1") == new.name, "it stays"


def test_a_switchover_that_cannot_be_is_refused_and_changes_nothing(lab: Lab) -> None:
    one, two = lab.nodes.values()
    holder = lab.holder("v1")
    other = lab.other(holder).name
    for wanted, expected, word in [
        ({"target": holder}, 409, "already"),
        ({"target": "n7"}, 404, "n7"),
        ({"vip": "v9"}, 404, "v9"),
        ({"vip": None}, 422, "v1, v2"),
        ({"deadline_seconds": 0}, 422, "deadline_seconds"),
        ({"at": "2020-01-01T00:00:00Z"}, 422, "not in the future"),
        ({"at": "2030-01-01T00:00:00"}, 422, "timezone"),
        ({"vips": "v1"}, 422, "there is no such parameter"),
    ]:
        status, problem = begin(one, **wanted)
        assert (status, word in problem["detail"]) == (expected, True), problem
    assert one.request("PUT", f"/v1/nodes/{other}/drain?vip=v1")[0] == 200
    for node in (one, two):
        wait_for(lambda: node.member(other)["drain"]["vips"] == ["v1"], 5, "known")  # noqa: B023
        status, problem = begin(node)
        assert (status, "is drained itself" in problem["detail"]) == (409, True)
    assert lab.holder("v1") == holder
    assert tracks(lab) == {f"{other} drain-v1": "-100"}


def test_a_paused_cluster_begins_nothing_wherever_it_is_asked(lab: Lab) -> None:
    one, two = lab.nodes.values()
    status, pause = one.request("PUT", "/v1/pause", body={"reason": "new switches"})
    assert (status, pause["paused"]) == (200, True)
    for node in (one, two):
        assert node.get("/v1/pause")["reason"] == "new switches"
        assert node.get("/v1/cluster")["pause"]["paused"] is True
        status, problem = begin(node)
        assert (status, "new switches" in problem["detail"]) == (409, True)
    two.kill()
    one.kill()
    start(one, two)
    assert two.get("/v1/pause")["paused"] is True
    assert two.request("DELETE", "/v1/pause") == (200, two.get("/v1/pause"))
    assert one.get("/v1/pause")["paused"] is False
    assert one.request("PUT", "/v1/pause", body={"seconds": 0.3})[0] == 200
    wait_for(lambda: two.get("/v1/pause")["paused"] is False, 3, "it ends by itself")


def test_one_key_begins_one_operation_on_any_node(lab: Lab) -> None:
    one, two = lab.nodes.values()
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    first = begin(one, "a-key", at=later)
    assert begin(one, "a-key", at=later) == first
    assert begin(two, "a-key", at=later) == first
    status, problem = begin(two, "a-key", vip="v2", at=later)
    assert (status, "use a new key" in problem["detail"]) == (422, True)
    # the node that is to do it ends it, whoever is asked
    status, cancelled = two.request("DELETE", f"/v1/operations/{first[1]['id']}")
    assert (status, cancelled["state"]) == (200, "failed")
    assert cancelled["problem"].startswith("cancelled by")
    assert two.request("DELETE", f"/v1/operations/{first[1]['id']}")[0] == 409
    assert two.request("DELETE", "/v1/operations/nothing")[0] == 404


def test_one_with_a_time_waits_for_it_also_over_a_restart(lab: Lab) -> None:
    node = lab.nodes["n1"]
    holder = lab.holder("v1")
    later = (datetime.now(UTC) + timedelta(seconds=4)).isoformat()
    operation = begin(node, at=later)[1]
    node.kill()
    start(node)
    assert node.get(f"/v1/operations/{operation['id']}")["state"] == "queued"
    assert lab.holder("v1") == holder
    assert ended(node, operation)["figures"]["from"] == holder
    assert lab.holder("v1") != holder


def test_what_does_not_move_in_time_is_taken_back(lab: Lab) -> None:
    old = lab.nodes[lab.holder("v1")]
    new = lab.other(old.name)
    process = lab.keepalived[new.name].process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    # the process that keeps the VIPs is a child of it
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = [int(pid) for pid in children.read_text().split()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        operation = begin(old, deadline_seconds=2)[1]
        path = f"/v1/operations/{operation['id']}"
        wait_for(lambda: old.get(path)["state"] == "unknown", 10, "in doubt")
        assert "not within 2 s" in old.get(path)["problem"]
        assert tracks(lab) == {}, "nobody is drained any more"
    finally:
        for pid in [*pids, process.pid]:
            os.kill(pid, signal.SIGCONT)
    found = ended(old, operation)
    held = lab.holder("v1")
    assert (found["state"] == "succeeded") == (held == new.name), found


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("victim", ["holder", "other"])
def test_an_api_killed_at_any_step_leaves_a_vip_with_a_holder_and_an_end_that_is_true(
    lab: Lab, victim: str, step: int
) -> None:
    old = lab.nodes[lab.holder("v1")]
    new = lab.other(old.name)
    node = old if victim == "holder" else new
    operation = begin(node, deadline_seconds=3)[1]
    path = f"/v1/operations/{operation['id']}"
    wait_for(lambda: len(node.get(path)["events"]) >= step, 5, "that step", 0.002)
    node.kill()
    start(node)
    found = ended(node, operation, 30)
    held = lab.holder("v1")
    assert held in lab.nodes
    if found["state"] == "succeeded":
        assert held == new.name, found
    else:
        assert held == old.name, found
    wait_for(lambda: tracks(lab) == {}, 12, lambda: str(tracks(lab)))
    assert lab.holder("v1") == held, "it stays where it is"


def test_an_operation_is_followed_live_from_any_node(lab: Lab) -> None:
    old = lab.nodes[lab.holder("v1")]
    status, operation = begin(old)
    assert status == 202, operation
    for node in lab.nodes.values():
        wait_for(lambda: operation["id"] in [o["id"] for o in node.get("/v1/operations")],  # noqa: B023
                 5, "it is known")  # fmt: skip
        with within(node.namespace):
            connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=20)
            connection.connect()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        connection.request("GET", f"/v1/operations/{operation['id']}/events", headers=headers)
        answer = connection.getresponse()
        assert answer.getheader("Content-Type", "").startswith("text/event-stream")
        events = answer.read().decode().strip().split("\n\n")
        connection.close()
        states = [json.loads(e.partition("data: ")[2])["state"] for e in events]
        assert states[-1] == "succeeded", "the stream ends with the operation"
        assert "event: operation" in events[0]


def test_the_command_line_moves_a_vip_and_shows_how(lab: Lab) -> None:
    old = lab.nodes[lab.holder("v1")]
    new = lab.other(old.name)
    done = command(old, "switchover", "--vip", "v1", "--target", new.name)
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"{new.name} holds v1" in done.stdout
    again = command(old, "switchover", "--vip", "v1", "--target", new.name)
    assert (again.returncode, "already" in again.stderr) == (1, True), again.stderr
    found = json.loads(command(new, "switchover", "--vip", "v1", "--json").stdout)
    assert (found["state"], found["figures"]["to"]) == ("succeeded", old.name)
    assert command(old, "pause", "--reason", "work").returncode == 0
    shown = command(new, "status")
    assert "paused" in shown.stdout
    assert "work" in shown.stdout
    refused = command(new, "switchover", "--vip", "v1")
    assert (refused.returncode, "tandem pause --undo" in refused.stderr) == (1, True)
    assert command(new, "pause", "--undo").returncode == 0
