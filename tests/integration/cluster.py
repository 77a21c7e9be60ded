"""API processes that are nodes of one cluster, with certificates of an authority of their own."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from appliance.health.report import JSON_FILE, write_json
from appliance.health.state_socket import SOCKET_FILE, StateSocket
from tests.integration.harness import free_port, wait_for

TOKEN = "an-operator's-token-of-the-tests"
VIPS = {"v1": ["10.99.0.101", "fd99::101"], "v2": ["10.99.0.102"]}


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


class Authority:
    """A CA, with the openssl command."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.name = name
        folder.mkdir(parents=True, exist_ok=True)
        openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2",
                "-subj", f"/CN=tests {name}")  # fmt: skip

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.pem"

    def sign(self, name: str, address: str, usage: str = "serverAuth,clientAuth") -> Path:
        """A certificate ``<name>.pem`` and its key ``<name>.key``; the former's path."""
        path = self.folder / f"{self.name}-{name}.pem"
        key, request = path.with_suffix(".key"), path.with_suffix(".csr")
        extensions = path.with_suffix(".ext")
        extensions.write_text(
            f"subjectAltName=DNS:{name},IP:{address}\nextendedKeyUsage={usage}\n"
            "keyUsage=digitalSignature\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
        )
        openssl(self.folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                "-nodes", "-keyout", str(key), "-out", str(request),
                "-subj", f"/CN={name}")  # fmt: skip
        openssl(self.folder, "x509", "-req", "-in", str(request), "-CA", f"{self.name}.pem",
                "-CAkey", f"{self.name}.key", "-CAcreateserial", "-days", "2",
                "-extfile", str(extensions), "-out", str(path))  # fmt: skip
        return path


@dataclass
class Answer:
    """What an API answered."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def document(self) -> Any:
        return json.loads(self.text)


@dataclass
class Node:
    """One node: its files, and the process of its API."""

    folder: Path
    name: str
    addresses: dict[str, str]
    cluster_port: int
    authority: Authority
    port: int = 0
    namespace: str = ""
    process: subprocess.Popen[bytes] | None = None
    fake: subprocess.Popen[bytes] | None = None
    document: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("data", "state", "run"):
            (self.folder / name).mkdir(parents=True)
        self.port = self.port or free_port(socket.SOCK_STREAM)
        self.certificate = self.authority.sign(self.name, self.addresses[self.name])
        os.mkfifo(self.fifo)
        self.write_config()
        self.collector = StateSocket(self.folder / "run" / SOCKET_FILE)
        threading.Thread(target=self._answer, daemon=True).start()
        self.collect()
        self.keepalived(True)

    @property
    def fifo(self) -> Path:
        return self.folder / "notify"

    def write_config(self, **changes: Any) -> None:
        listener = changes.get("listener", 2055)
        (self.folder / "tokens").write_text(sha256(TOKEN.encode()).hexdigest() + "\n")
        lines = [
            'data_dir = "data"',
            f'[node]\nname = "{self.name}"',
            f"[[listener]]\nport = {listener}",
            '[health]\ndirectory = "run"',
            f'[api]\nport = {self.port}\ntoken_file = "tokens"\nstate_dir = "state"',
            f'address = "{changes.get("address", "127.0.0.1")}"',
            'runtime_dir = "run"',
            changes.get("api", ""),
            '[drill]\nsocket = "fault.sock"',
            f'[cluster]\nname = "tests"\nport = {self.cluster_port}',
            f'ca = "{self.authority.certificate}"\ncertificate = "{self.certificate}"',
            f'key = "{self.certificate.with_suffix(".key")}"',
            'notify_fifo = "notify"\nkeepalived_pid = "keepalived.pid"\n'
            'haproxy_socket = "haproxy.sock"',
        ]
        lines += [
            f'[[cluster.node]]\nname = "{name}"\naddress = "{address}"'
            for name, address in self.addresses.items()
        ]
        lines += [
            f'[[cluster.vip]]\nname = "{name}"\naddresses = {json.dumps(addresses)}'
            for name, addresses in VIPS.items()
        ]
        (self.folder / "tandem.toml").write_text("\n".join(lines) + "\n")

    def collect(self, **changes: Any) -> None:
        """Let the collector and the health unit say that all is well, for an hour from now."""
        later = time.time_ns() + 3600 * 10**9
        self.document = {
            "node": self.name,
            "version": "0.1.0",
            "pid": 1,
            "started_ns": 1,
            "updated_ns": later,
            "workers": [{"pid": 2, "shards": [0]}],
            "listeners": [{"address": "::", "port": 2055, "transport": "udp"}],
            "shards": [{"shard": 0}],
        } | changes
        self.health("ok")

    def health(self, state: str, reason: str = "", ahead: float = 3600) -> None:
        later = time.time_ns() + int(ahead * 1e9)
        document = {"state": state, "reason": reason, "since_ns": 1, "updated_ns": later}
        write_json(self.folder / "run" / JSON_FILE, document)

    def _answer(self) -> None:
        """The collector's side of its state socket, until it is closed."""
        while True:
            try:
                select.select([self.collector], [], [])
            except (OSError, ValueError):
                return
            self.collector.answer(lambda: json.dumps(self.document).encode())

    def keepalived(self, runs: bool) -> None:
        """A process of that name, or none."""
        if runs and self.fake is None:
            program = self.folder / "keepalived"
            shutil.copy("/bin/sleep", program)
            self.fake = subprocess.Popen([program, "1000"])
            (self.folder / "keepalived.pid").write_text(f"{self.fake.pid}\n")
        elif not runs and self.fake is not None:
            self.fake.kill()
            self.fake.wait()
            self.fake = None

    def say(self, line: str) -> None:
        """What keepalived writes to its FIFO."""
        fd = os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK)
        os.write(fd, line.encode())
        os.close(fd)

    # ── the API ───────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        """Start it; see :func:`start`."""
        command = [sys.executable, "-m", "api", "--config", str(self.folder / "tandem.toml")]
        if self.namespace:
            command = ["ip", "netns", "exec", self.namespace, *command]
        with (self.folder / "api.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def log(self) -> str:
        return (self.folder / "api.log").read_text()

    def alive(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            return self.request("GET", "/livez")[0] == 200
        except OSError:
            return False

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def ask(
        self,
        method: str,
        path: str,
        token: str | None = TOKEN,
        body: Any = None,
        **headers: str,
    ) -> Answer:
        """From within the node's namespace, as its command line would."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        content = None
        if body is not None:
            content = json.dumps(body)
            headers["Content-Type"] = "application/json"
        with within(self.namespace):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            connection.connect()
        try:
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.headers), answer.read().decode())
        finally:
            connection.close()

    def request(
        self, method: str, path: str, token: str | None = TOKEN, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """Status and document."""
        answer = self.ask(method, path, token, body, **headers)
        return answer.status, json.loads(answer.text) if answer.text else None

    def get(self, path: str) -> Any:
        status, document = self.request("GET", path)
        assert status == 200, document
        return document

    def member(self, name: str) -> dict[str, Any]:
        """The node ``name`` in this one's view of the cluster."""
        (found,) = (n for n in self.get("/v1/cluster")["nodes"] if n["name"] == name)
        return dict(found)

    def problems(self) -> list[str]:
        return list(self.get("/v1/cluster")["problems"])

    def vip(self, name: str) -> dict[str, Any]:
        (found,) = (v for v in self.get("/v1/node")["vips"] if v["vip"] == name)
        return dict(found)

    def track(self, name: str) -> str:
        return (self.folder / "state" / name).read_text().strip()

    def end(self) -> None:
        """Leave nothing behind."""
        self.kill()
        self.keepalived(False)
        self.collector.close()


@contextmanager
def pair_of_nodes(folder: Path) -> Iterator[tuple[Node, Node]]:
    """Two nodes that run and know each other."""
    authority = Authority(folder / "ca")
    port = free_port(socket.SOCK_STREAM)
    addresses = {"n1": "127.0.0.2", "n2": "127.0.0.3"}
    one, two = (Node(folder / name, name, addresses, port, authority) for name in addresses)
    try:
        start(one, two)
        acquainted(one, two)
        yield one, two
    finally:
        one.end()
        two.end()


def acquainted(one: Node, two: Node) -> None:
    """Wait until both know that the other one is there."""
    wait_for(lambda: bool(one.member("n2")["ready"] and two.member("n1")["ready"]), 20, "peers")


def start(*nodes: Node) -> None:
    """Start the APIs that do not run, and wait until all of them answer."""
    for node in nodes:
        if node.process is None:
            node.begin()
    for node in nodes:
        wait_for(node.alive, 60, f"the API of {node.name}")


@contextmanager
def within(namespace: str) -> Iterator[None]:
    """This thread in a network namespace; sockets that it makes stay there."""
    if not namespace:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as own, open(f"/run/netns/{namespace}") as other:
        assert libc.setns(other.fileno(), 0) == 0
        try:
            yield
        finally:
            assert libc.setns(own.fileno(), 0) == 0
