"""The namespaces of the demo: clients, servers, and a router for each exporter between them."""

from __future__ import annotations

import json
import socket
import subprocess
from contextlib import suppress
from types import TracebackType

PREFIX = "tandem-demo-"
CLIENTS, SERVERS = f"{PREFIX}clients", f"{PREFIX}servers"
HOSTS = (10, 20, 30)
"""Last octets of the clients, and of the servers, behind each edge."""
LOCK = "\0tandem-demo"
"""An abstract socket: whoever has it bound runs the only demo; it goes with the process."""
EXPORTS = "198.51.100.0/24"
"""TEST-NET-2 (RFC 5737): the links between the edges and this machine."""


class NetworkError(Exception):
    """The network cannot be made; the message says why and what helps."""


def edge(number: int) -> str:
    """The namespace of router ``number``, from 1."""
    return f"{PREFIX}edge{number}"


def host_address(number: int) -> str:
    """Address of this machine on its link to router ``number``."""
    return f"198.51.100.{4 * number + 1}"


def edge_address(number: int) -> str:
    """The address that router ``number`` exports from."""
    return f"198.51.100.{4 * number + 2}"


def client_addresses(number: int) -> list[str]:
    """Clients behind router ``number``."""
    four = [f"10.77.{number}.{host}" for host in HOSTS]
    return four + [f"2001:db8:77:{number}::{host}" for host in HOSTS]


def server_addresses(number: int) -> list[str]:
    """Servers behind router ``number``."""
    four = [f"10.78.{number}.{host}" for host in HOSTS]
    return four + [f"2001:db8:78:{number}::{host}" for host in HOSTS]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NetworkError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """Makes the namespaces on entry and removes them on exit; one at a time on a machine."""

    def __init__(self, edges: int) -> None:
        self.edges = edges
        self._lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __enter__(self) -> Network:
        try:
            self._lock.bind(LOCK)
        except OSError:
            self._lock.close()
            raise NetworkError("another demo is running on this machine") from None
        try:
            self._remove()  # what a demo that was killed has left
            if used := _run("ip", "route", "show", "root", EXPORTS).strip():
                raise NetworkError(f"{EXPORTS} is in use on this machine: {used}")
            self._make()
        except BaseException:
            self._remove()
            self._lock.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()
        self._lock.close()

    def _names(self) -> list[str]:
        listed = json.loads(_run("ip", "-json", "netns", "list") or "[]")
        return [row["name"] for row in listed if row["name"].startswith(PREFIX)]

    def _remove(self) -> None:
        names = self._names()
        for name in names:
            # the kernel would remove them with the namespace, but some time later
            for link in _links(name):
                with suppress(NetworkError):
                    _run("ip", "-n", name, "link", "delete", link)
        for name in names:
            with suppress(NetworkError):
                _run("ip", "netns", "delete", name)

    def _make(self) -> None:
        for name in (CLIENTS, SERVERS, *(edge(n) for n in range(1, self.edges + 1))):
            _run("ip", "netns", "add", name)
            # no autoconfiguration, no waiting for duplicate addresses
            _sysctl(name, "ipv6.conf.default.accept_dad", 0)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        for number in range(1, self.edges + 1):
            self._make_edge(number)

    def _make_edge(self, number: int) -> None:
        name = edge(number)
        for setting in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            _sysctl(name, setting, 1)
        for side, others, third, addresses in (
            ("inside", CLIENTS, 77, client_addresses(number)),
            ("outside", SERVERS, 78, server_addresses(number)),
        ):
            link = f"edge{number}"
            _run(
                *("ip", "-n", others, "link", "add", link, "type", "veth"),
                *("peer", "name", side, "netns", name),
            )
            # packets as on a wire, not the large ones that stay inside one machine
            _run("ip", "-n", others, "link", "set", link, "gso_max_segs", "1")
            _run("ip", "-n", others, "link", "set", link, "up")
            _run("ip", "-n", name, "link", "set", side, "up")
            for router in (f"10.{third}.{number}.1/24", f"2001:db8:{third}:{number}::1/64"):
                _run("ip", "-n", name, "address", "add", router, "dev", side)
            for address in addresses:
                bits = "64" if ":" in address else "24"
                _run("ip", "-n", others, "address", "add", f"{address}/{bits}", "dev", link)
            # the way to the other side is through this edge
            there = 155 - third
            for target, router in (
                (f"10.{there}.{number}.0/24", f"10.{third}.{number}.1"),
                (f"2001:db8:{there}:{number}::/64", f"2001:db8:{third}:{number}::1"),
            ):
                _run("ip", "-n", others, "route", "add", target, "via", router)
        link = f"tandem-edge{number}"
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "uplink", "netns", name)
        _run("ip", "address", "add", f"{host_address(number)}/30", "dev", link)
        _run("ip", "link", "set", link, "up")
        _run("ip", "-n", name, "address", "add", f"{edge_address(number)}/30", "dev", "uplink")
        _run("ip", "-n", name, "link", "set", "uplink", "up")

    def traffic(self) -> list[tuple[int, int]]:
        """Of each edge: bytes forwarded to clients, and packets sent to this machine."""
        figures = []
        for number in range(1, self.edges + 1):
            inside = json.loads(
                _run("ip", "-json", "-stats", "-n", edge(number), "link", "show", "inside")
            )
            here = json.loads(_run("ip", "-json", "-stats", "link", "show", f"tandem-edge{number}"))
            figures.append(
                (inside[0]["stats64"]["tx"]["bytes"], here[0]["stats64"]["rx"]["packets"])
            )
        return figures


def _links(namespace: str) -> list[str]:
    """The interfaces of a namespace, but for its loopback."""
    listed = json.loads(_run("ip", "-json", "-n", namespace, "link", "show", "type", "veth"))
    return [row["ifname"] for row in listed if "ifname" in row]


def _sysctl(namespace: str, setting: str, value: int) -> None:
    path = "/proc/sys/net/" + setting.replace(".", "/")
    _run("ip", "netns", "exec", namespace, "sh", "-c", f"echo {value} > {path}")
