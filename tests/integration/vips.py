"""API processes beside real keepalived processes, each node in a network namespace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.integration.cluster import TOKEN, VIPS, Authority, Node, start
from tests.integration.harness import wait_for

ADDRESSES = {"n1": "10.99.0.1", "n2": "10.99.0.2"}
_OWN = f"tandem-{os.getpid()}"
"""What namespaces are called by: runs of tests do not disturb each other."""
SWITCH = f"{_OWN}-switch"

ADVERT_SECONDS = 0.4
"""Three of them are missing before a VIP moves: this machine may be busy with other things."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Network:
    """A namespace for each node, and a bridge between them in another one."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self.addresses = addresses
        ip("netns", "add", SWITCH)
        ip("-n", SWITCH, "link", "add", "name", "br", "up", "type", "bridge")
        for name, address in addresses.items():
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
        return f"{_OWN}-{name}"

    def join(self, joined: bool) -> None:
        """Whether frames of n1 pass; its link stays up."""
        state = "3" if joined else "0"
        subprocess.run(
            ["ip", "netns", "exec", SWITCH, "bridge", "link", "set", "dev", "n1", "state", state],
            check=True,
        )

    def close(self) -> None:
        for space in (SWITCH, *map(self.of, self.addresses)):
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


def instance(name: str, vrid: int, address: str) -> str:
    family = 6 if ":" in address else 4
    addresses = f"fe80::99:{vrid}/64\n{address}/128" if family == 6 else f"{address}/32"
    return (
        f"vrrp_instance {name}-{family} {{\nstate BACKUP\ninterface host0\n"
        f"virtual_router_id {vrid}\npriority 254\nadvert_int {ADVERT_SECONDS}\n"
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
    """All nodes."""

    def __init__(self, folder: Path, addresses: dict[str, str] = ADDRESSES) -> None:
        self.network = Network(addresses)
        authority = Authority(folder / "ca")
        self.nodes = {
            name: Node(folder / name, name, addresses, 8444, authority, 8080, Network.of(name))
            for name in addresses
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


def command(node: Node, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``tandem`` on ``node``."""
    return subprocess.run(
        ["ip", "netns", "exec", node.namespace, sys.executable, "-m", "appliance.cli", *arguments],
        env={**os.environ, "TANDEM_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=60,
    )
