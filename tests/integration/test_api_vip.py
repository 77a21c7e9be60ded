"""APIs beside real keepalived processes, in network namespaces: who has a VIP, and why it moved."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cluster import TOKEN, VIPS, Authority, Node, start
from tests.integration.harness import wait_for

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(shutil.which("keepalived") is None, reason="keepalived is not installed"),
]

ADDRESSES = {"n1": "10.99.0.1", "n2": "10.99.0.2"}
SWITCH = "tandem-t-switch"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Network:
    """A namespace for each node, and a bridge between them in another one."""

    def __init__(self) -> None:
        self.close()
        ip("netns", "add", SWITCH)
        ip("-n", SWITCH, "link", "add", "name", "br", "up", "type", "bridge")
        for name, address in ADDRESSES.items():
            space = self.of(name)
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "link", "add", "name", "host0", "type", "veth", "peer", "name", name)
            ip("-n", space, "link", "set", name, "netns", SWITCH)
            ip("-n", SWITCH, "link", "set", name, "master", "br", "up")
            ip("-n", space, "addr", "add", f"{address}/24", "dev", "host0")
            ip("-n", space, "link", "set", "host0", "up")

    @staticmethod
    def of(name: str) -> str:
        return f"tandem-t-{name}"

    def join(self, joined: bool) -> None:
        """Whether frames of n1 pass; its link stays up."""
        state = "3" if joined else "0"
        subprocess.run(
            ["ip", "netns", "exec", SWITCH, "bridge", "link", "set", "dev", "n1", "state", state],
            check=True,
        )

    def close(self) -> None:
        for space in (SWITCH, *map(self.of, ADDRESSES)):
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


def instance(name: str, vrid: int, address: str) -> str:
    family = 6 if ":" in address else 4
    addresses = f"fe80::99:{vrid}/64\n{address}/128" if family == 6 else f"{address}/32"
    return (
        f"vrrp_instance {name}-{family} {{\nstate BACKUP\ninterface host0\n"
        f"virtual_router_id {vrid}\npriority 254\nadvert_int 0.1\n"
        f"virtual_ipaddress {{\n{addresses}\n}}\n}}\n"
    )


class Keepalived:
    """keepalived with the VIPs of the tests, beside the API of ``node``."""

    def __init__(self, node: Node) -> None:
        self.node = node
        state, run = node.folder / "state", node.folder / "run"
        (run / "health").write_text("0\n")
        files = [("health", run / "health"), ("drain", state / "drain")]
        files += [(f"drain_{vip}", state / f"drain-{vip}") for vip in VIPS]
        parts = ["global_defs {\nvrrp_version 3\n"
                 f"notify_fifo {node.fifo}\nscript_user root\n}}\n"]  # fmt: skip
        parts += [f'track_file {name} {{\nfile "{path}"\nweight 1\n}}\n' for name, path in files]
        for number, (vip, addresses) in enumerate(VIPS.items(), 51):
            parts += [instance(vip, number, address) for address in addresses]
            members = "\n".join(f"{vip}-{6 if ':' in a else 4}" for a in addresses)
            parts.append(
                f"vrrp_sync_group {vip} {{\ngroup {{\n{members}\n}}\n"
                f"track_file {{\nhealth\ndrain\ndrain_{vip}\n}}\n}}\n"
            )
        (node.folder / "keepalived.conf").write_text("".join(parts))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        folder = self.node.folder
        with (folder / "keepalived.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.node.namespace, "keepalived", "--dont-fork", "-l",
                 "-f", str(folder / "keepalived.conf"), "-p", str(folder / "keepalived.pid"),
                 "-r", str(folder / "vrrp.pid"), "-D"],
                stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(folder)},
            )  # fmt: skip

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)
            self.process = None


class Lab:
    """Both nodes."""

    def __init__(self, folder: Path) -> None:
        self.network = Network()
        authority = Authority(folder / "ca")
        self.nodes = {
            name: Node(folder / name, name, ADDRESSES, 8444, authority, 8080, Network.of(name))
            for name in ADDRESSES
        }
        self.keepalived: dict[str, Keepalived] = {}

    def start(self) -> None:
        start(*self.nodes.values())
        for name, node in self.nodes.items():
            node.keepalived(False)
            self.keepalived[name] = Keepalived(node)
            self.keepalived[name].start()
        wait_for(lambda: self.holder("v1") != "", 20, "a holder")

    def held(self, name: str, vip: str) -> bool | None:
        return self.nodes[name].vip(vip)["held"]  # type: ignore[no-any-return]

    def holder(self, vip: str) -> str:
        """The one node that has ``vip``; empty while there is none, or more."""
        found = [name for name in self.nodes if self.held(name, vip)]
        return found[0] if len(found) == 1 else ""

    def other(self, name: str) -> Node:
        return next(node for node in self.nodes.values() if node.name != name)

    def close(self) -> None:
        for keepalived in self.keepalived.values():
            keepalived.stop()
        for node in self.nodes.values():
            node.end()
        self.network.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        lab.start()
        yield lab
    finally:
        lab.close()


def command(node: Node, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``tandem`` on ``node``."""
    return subprocess.run(
        ["ip", "netns", "exec", node.namespace, sys.executable, "-m", "appliance.cli", *arguments],
        env={**os.environ, "TANDEM_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=60,
    )


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
    wait_for(lambda: lab.holder("v1") != "", 10, "one of them again")
    loser = lab.other(lab.holder("v1"))
    wait_for(lambda: last(loser, "v1", loser.name)["cause"] == "partition healed", 8, "the cause")


def test_the_api_is_only_an_observer(lab: Lab) -> None:
    holder = lab.nodes[lab.holder("v1")]
    other = lab.other(holder.name)
    before = len(other.get("/v1/failover")["history"])
    holder.signal(signal.SIGSTOP)
    wait_for(lambda: not other.member(holder.name)["reachable"], 10, "the hung API noticed")
    assert other.vip("v1")["held"] is False
    holder.signal(signal.SIGCONT)
    holder.kill()
    start(holder)
    assert holder.vip("v1")["held"] is True
    assert last(holder, "v1", holder.name)["cause"] == "start"
    assert len(other.get("/v1/failover")["history"]) <= before + 1
    causes = [t["cause"] for t in holder.get("/v1/failover")["history"]]
    assert "drain" in causes or "peer draining" in causes, "the history outlives the API"
