"""The rendered rules in a network namespace, tried with real packets from another one."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.roles.role_runs import run_role

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nftables is not installed"),
]

NODE = "10.77.0.11"
PEER = "10.77.0.12"
EXPORTER = "10.77.1.5"
MANAGER = "10.77.2.5"
MONITOR = "10.77.3.5"
STRANGER = "10.77.9.9"
OUTSIDE = [PEER, EXPORTER, MANAGER, MONITOR, STRANGER]
NODE6, EXPORTER6, STRANGER6 = "fd77::11", "fd77:1::5", "fd77:9::9"
FLOWS, IPFIX, API, CLUSTER, PROXIED, METRICS = 2055, 4739, 8443, 8444, 14739, 8405


def sh(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)


@dataclass(frozen=True)
class Link:
    """A node's namespace and the one of everybody else, joined by a pair of interfaces."""

    node: str
    outside: str
    rules: Path

    def load(self) -> None:
        sh("ip", "netns", "exec", self.node, "nft", "-f", str(self.rules))

    def nft(self, *args: str) -> str:
        return sh("ip", "netns", "exec", self.node, "nft", *args).stdout

    def counter(self, name: str) -> int:
        answer = json.loads(self.nft("-j", "list", "counter", "inet", "tandem", name))
        return next(x["counter"]["packets"] for x in answer["nftables"] if "counter" in x)

    def tracked(self, port: int) -> int:
        """Entries of connection tracking for UDP to ``port``."""
        table = sh("ip", "netns", "exec", self.node, "cat", "/proc/net/nf_conntrack").stdout
        return sum("udp" in x and f"dport={port} " in x for x in table.splitlines())


def socket_in(namespace: str, *args: int) -> socket.socket:
    """A socket of ``namespace``; the thread that enters it ends with its making."""
    made: list[socket.socket] = []

    def enter_and_make() -> None:
        with Path("/run/netns", namespace).open() as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
        made.append(socket.socket(*args))

    thread = threading.Thread(target=enter_and_make)
    thread.start()
    thread.join()
    return made[0]


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("firewall")
    outcome = run_role(
        directory, "firewall", ["preflight", "configure"],
        {"n1": {"tandem_address": NODE}, "n2": {"tandem_address": PEER}},
        {
            "tandem_exporter_networks": ["10.77.1.0/24", "fd77:1::/64"],
            "tandem_management_networks": ["10.77.2.0/24"],
            "tandem_monitoring_networks": ["10.77.3.0/24"],
            "tandem_flow_ports": [FLOWS, 4739],
            "tandem_ipfix_tcp_port": IPFIX,
            "tandem_ipfix_tls_port": 4740,
            "tandem_ipfix_proxied_port": PROXIED,
            "tandem_api_port": API,
            "tandem_cluster_port": CLUSTER,
            "tandem_haproxy_metrics_port": METRICS,
            "tandem_keepalived_exporter_port": 9165,
            "firewall_extra_rules": ["ip saddr 10.77.9.9 tcp dport 7777 accept"],
            "firewall_file": str(directory / "rules/tandem.nft"),
        },
    )  # fmt: skip
    assert outcome.failed == 0, outcome.output
    return directory / "rules/tandem.nft"


@pytest.fixture
def link(rules: Path) -> Iterator[Link]:
    made = Link(f"fw-node-{os.getpid()}", f"fw-out-{os.getpid()}", rules)
    try:
        for namespace in (made.node, made.outside):
            sh("ip", "netns", "add", namespace)
            sh("ip", "-n", namespace, "link", "set", "lo", "up")
        sh(
            "ip", "-n", made.node, "link", "add", "host0", "type", "veth",
            "peer", "name", "out0", "netns", made.outside,
        )  # fmt: skip
        addresses = [
            (made.node, "host0", [NODE], [NODE6]),
            (made.outside, "out0", OUTSIDE, [EXPORTER6, STRANGER6]),
        ]
        for namespace, device, v4, v6 in addresses:
            for address in v4:
                sh("ip", "-n", namespace, "address", "add", f"{address}/16", "dev", device)
            for address in v6:
                sh("ip", "-n", namespace, "address", "add", f"{address}/16", "dev", device, "nodad")
            sh("ip", "-n", namespace, "link", "set", device, "addrgenmode", "none")
            sh("ip", "-n", namespace, "link", "set", device, "up")
        made.load()
        yield made
    finally:
        for namespace in (made.node, made.outside):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, timeout=30)


def deliver(
    link: Link, source: str, target: str, port: int, kind: int = socket.SOCK_DGRAM
) -> bytes:
    """What a socket of the node gets from ``source``; nothing if the firewall drops it."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    protocol = port if kind == socket.SOCK_RAW else 0
    with (
        socket_in(link.node, family, kind, protocol) as receiver,
        socket_in(link.outside, family, kind, protocol) as sender,
    ):
        receiver.settimeout(0.4)
        place = 0 if kind == socket.SOCK_RAW else port
        receiver.bind((target, place))
        sender.bind((source, 0))
        if kind == socket.SOCK_RAW:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
        sender.sendto(b"advert or flows", (target, place))
        try:
            return receiver.recv(2000)
        except TimeoutError:
            return b""


def connects(link: Link, source: str, port: int) -> bool:
    with (
        socket_in(link.node, socket.AF_INET, socket.SOCK_STREAM) as listener,
        socket_in(link.outside, socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((NODE, port))
        listener.listen()
        client.settimeout(0.4)
        client.bind((source, 0))
        try:
            client.connect((NODE, port))
        except TimeoutError:
            return False
        return True


@pytest.mark.parametrize(("source", "target"), [(EXPORTER, NODE), (EXPORTER6, NODE6)])
def test_flow_datagrams_of_exporters_pass_untracked(link: Link, source: str, target: str):
    assert deliver(link, source, target, FLOWS) == b"advert or flows"
    assert link.counter("flows") == 1
    assert link.tracked(FLOWS) == 0


def test_other_datagrams_are_tracked(link: Link):
    """So that the test above can fail."""
    link.nft("insert", "rule", "inet", "tandem", "input", "udp", "dport", "9", "accept")
    assert deliver(link, EXPORTER, NODE, 9) == b"advert or flows"
    assert link.tracked(9) == 1


@pytest.mark.parametrize(("source", "target"), [(STRANGER, NODE), (STRANGER6, NODE6)])
def test_flow_datagrams_of_strangers_are_dropped_and_counted(link: Link, source: str, target: str):
    assert deliver(link, source, target, FLOWS) == b""
    assert (link.counter("flows"), link.counter("foreign_flows")) == (0, 1)


@pytest.mark.parametrize(
    ("port", "allowed"),
    [
        (22, {MANAGER}),
        (API, {MANAGER, MONITOR}),
        (IPFIX, {EXPORTER}),
        (CLUSTER, {PEER}),
        (PROXIED, {PEER}),
        (METRICS, {MONITOR}),
        (7777, {STRANGER}),
        (80, set()),
    ],
)
def test_who_may_connect(link: Link, port: int, allowed: set[str]):
    assert {source for source in OUTSIDE if connects(link, source, port)} == allowed
    assert link.counter("dropped") >= len(OUTSIDE) - len(allowed)


def test_vrrp_comes_from_peers_only(link: Link):
    assert deliver(link, PEER, NODE, 112, socket.SOCK_RAW).endswith(b"advert or flows")
    assert deliver(link, EXPORTER, NODE, 112, socket.SOCK_RAW) == b""


def test_a_session_that_the_node_does_not_know_is_refused_at_once(link: Link):
    """As after a failover: the exporter must learn it, or its session hangs."""
    segment = struct.pack(">HHIIBBHHH", 50000, IPFIX, 1000, 2000, 5 << 4, 0x18, 500, 0, 0)
    with socket_in(link.outside, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.bind((EXPORTER, 0))
        raw.settimeout(2)
        raw.sendto(with_checksum(segment, EXPORTER, NODE), (NODE, 0))
        answer = raw.recv(2000)
    assert answer[20 + 13] & 0x04, "no RST"


def with_checksum(segment: bytes, source: str, target: str) -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    summed = addresses + struct.pack(">HH", 6, len(segment)) + segment
    total = sum(struct.unpack(f">{len(summed) // 2}H", summed))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return segment[:16] + struct.pack(">H", ~total & 0xFFFF) + segment[18:]


def test_a_second_load_replaces_this_table_and_keeps_others(link: Link):
    link.nft("add", "table", "ip", "keepalived")
    link.nft("insert", "rule", "inet", "tandem", "input", "udp", "dport", "9", "accept")
    with (
        socket_in(link.node, socket.AF_INET, socket.SOCK_STREAM) as listener,
        socket_in(link.outside, socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        listener.bind((NODE, API))
        listener.listen()
        client.bind((MANAGER, 0))
        client.connect((NODE, API))
        session, _ = listener.accept()
        with session:
            link.load()
            client.sendall(b"still here")
            session.settimeout(2)
            assert session.recv(100) == b"still here"
    tables = link.nft("list", "tables").splitlines()
    assert sorted(tables) == ["table inet tandem", "table ip keepalived"]
    assert "dport 9 accept" not in link.nft("list", "table", "inet", "tandem")


def test_a_load_that_fails_leaves_the_rules_as_they_are(link: Link, tmp_path: Path):
    before = link.nft("list", "table", "inet", "tandem")
    broken = tmp_path / "broken.nft"
    broken.write_text(link.rules.read_text().replace("policy drop", "policy perhaps"))
    with pytest.raises(subprocess.CalledProcessError):
        link.nft("-f", str(broken))
    assert link.nft("list", "table", "inet", "tandem") == before
