"""APIs beside real keepalived processes, in network namespaces: who has a VIP, and why it moved."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.cluster import VIPS, Node, start
from tests.integration.harness import wait_for
from tests.integration.vips import ADVERT_SECONDS, Lab, command

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(shutil.which("keepalived") is None, reason="keepalived is not installed"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        lab.start()
        yield lab
    finally:
        lab.close()


def last(node: Node, vip: str, of: str) -> dict[str, Any]:
    """The last transition of ``vip`` on the node ``of``, as ``node`` tells it."""
    history = node.get("/v1/failover")["history"]
    return next((t for t in history if (t["vip"], t["node"]) == (vip, of)), {"cause": "", "to": ""})


def moved(lab: Lab, old: Node, new: Node, vip: str, lost: str, gained: str) -> None:
    """Wait until ``vip`` went from ``old`` to ``new``, for the causes given."""
    wait_for(lambda: lab.holder(vip) == new.name, 10, f"{vip} moves to {new.name}")
    wait_for(lambda: (last(old, vip, old.name)["to"], last(old, vip, old.name)["cause"]) ==
             ("standby", lost), 8, f"{lost}: {last(old, vip, old.name)}")  # fmt: skip
    wait_for(lambda: (last(new, vip, new.name)["to"], last(new, vip, new.name)["cause"]) ==
             ("active", gained), 8, f"{gained}: {last(new, vip, new.name)}")  # fmt: skip


def quiet(lab: Lab) -> bool:
    """Whether no VIP moves for longer than a node waits for adverts."""
    before = [lab.holder(vip) for vip in VIPS]
    time.sleep(4 * ADVERT_SECONDS)
    return all(before) and before == [lab.holder(vip) for vip in VIPS]


def test_the_roles_follow_the_kernel_and_keepalived_agrees(lab: Lab) -> None:
    holder = lab.nodes[lab.holder("v1")]
    other = lab.other(holder.name)
    assert holder.request("GET", "/active?vip=v1")[0] == 200
    assert other.request("GET", "/active?vip=v1")[0] == 503
    assert other.request("GET", "/standby?vip=v1")[0] == 200
    assert holder.request("GET", "/standby?vip=v1")[0] == 503
    wait_for(lambda: holder.vip("v1")["agrees"] is True, 5, holder.vip("v1")["keepalived"])
    assert (holder.vip("v1")["role"], holder.vip("v1")["keepalived"]) == ("active", "MASTER")
    for node in (holder, other):
        # there is no HAProxy here
        wait_for(lambda: all("HAProxy" in p for p in node.problems()), 5, "all well")  # noqa: B023
        assert node.get("/v1/cluster")["vips"][0]["holders"] == [holder.name]
    assert last(holder, "v1", holder.name)["cause"] in ("start", "keepalived stopped")


def test_a_drain_moves_one_vip_and_the_reason_is_known_on_both_nodes(lab: Lab) -> None:
    old = lab.nodes[lab.holder("v1")]
    new = lab.other(old.name)
    done = command(new, "drain", old.name, "--vip", "v1")
    assert done.returncode == 0, done.stderr
    assert f"v1 is held by {new.name}" in done.stdout
    assert lab.holder("v1") == new.name
    moved(lab, old, new, "v1", "drain", "peer draining")
    assert old.vip("v1")["role"] == "draining"
    assert command(new, "drain", old.name, "--undo").returncode == 0
    assert lab.holder("v1") == new.name


def test_a_sick_node_gives_up_and_says_its_state(lab: Lab) -> None:
    old = lab.nodes[lab.holder("v1")]
    new = lab.other(old.name)
    old.health("hung", "shard 0 proves nothing")
    (old.folder / "run" / "health").write_text("-150\n")
    moved(lab, old, new, "v1", "health", "peer unhealthy")
    assert last(new, "v1", new.name)["detail"] == f"{old.name}: hung"
    assert old.request("GET", "/readyz")[0] == 503
    (old.folder / "run" / "health").write_text("0\n")
    old.health("ok")


def test_keepalived_that_stops_is_the_cause(lab: Lab) -> None:
    old = lab.nodes[lab.holder("v1")]
    new = lab.other(old.name)
    lab.keepalived[old.name].stop()
    moved(lab, old, new, "v1", "keepalived stopped", "keepalived stopped")
    wait_for(lambda: old.vip("v1")["role"] == "fault", 5, "the role")
    stopped = f"{old.name}: keepalived does not run"
    wait_for(lambda: stopped in new.problems(), 5, stopped)
    lab.keepalived[old.name].start()
    wait_for(lambda: old.vip("v1")["role"] == "standby", 10, "keepalived back")


def test_a_partition_is_seen_and_its_end_is_a_cause(lab: Lab) -> None:
    old = lab.nodes[lab.holder("v1")]
    new = lab.other(old.name)
    lab.network.join(False)
    wait_for(lambda: new.vip("v1")["held"] is True, 10, "both have it")
    assert old.vip("v1")["held"] is True
    wait_for(lambda: not new.member(old.name)["reachable"], 10, "the partition seen")
    wait_for(lambda: last(new, "v1", new.name)["cause"] == "peer unreachable", 8, "the cause")
    lab.network.join(True)
    wait_for(lambda: quiet(lab), 20, "one of them again")
    loser = lab.other(lab.holder("v1"))
    wait_for(lambda: last(loser, "v1", loser.name)["cause"] == "partition healed", 8, "the cause")


def test_the_api_is_only_an_observer(lab: Lab) -> None:
    wait_for(lambda: quiet(lab), 20, "the end of the partition")
    holder = lab.nodes[lab.holder("v1")]
    other = lab.other(holder.name)
    begun_ns = time.time_ns()
    holder.signal(signal.SIGSTOP)
    wait_for(lambda: not other.member(holder.name)["reachable"], 10, "the hung API noticed")
    assert other.vip("v1")["held"] is False
    holder.signal(signal.SIGCONT)
    holder.kill()
    start(holder)
    assert holder.vip("v1")["held"] is True
    assert last(holder, "v1", holder.name)["cause"] == "start"
    since = [t for t in other.get("/v1/failover")["history"] if t["time_ns"] > begun_ns]
    assert [t for t in since if t["cause"] != "start"] == [], "no VIP has moved"
    causes = [t["cause"] for t in holder.get("/v1/failover")["history"]]
    assert "drain" in causes or "peer draining" in causes, "the history outlives the API"
