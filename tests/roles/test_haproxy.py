"""The rendered configuration in a real HAProxy, between real clients and an API and a collector."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.harness import free_port, wait_for
from tests.roles.haproxy_ends import Api, Collector, authority, leaf
from tests.roles.role_runs import run_role

RATE = 1500
BODY = 10_000
EXPORTER = "127.0.0.9"
FORGED = {"X-Forwarded-For": "10.9.9.9"}

pytestmark = [
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="HAProxy gives up root's rights: needs root"),
]


@dataclass
class Proxy:
    """A running HAProxy and what is behind it: n1, where it runs, and its peer n2."""

    directory: Path
    ports: dict[str, int]
    api: Api
    peer_api: Api
    collector: Collector
    peer_collector: Collector
    process: subprocess.Popen[bytes] | None = None

    @property
    def pki(self) -> Path:
        return self.directory / "pki"

    def worker(self) -> str:
        """Process id of the worker that has the stats socket, or nothing."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(2)
            try:
                sock.connect(str(self.directory / "admin.sock"))
                sock.sendall(b"show info\n")
                answer = b"".join(iter(lambda: sock.recv(4096), b"")).decode()
            except OSError:
                return ""
        return dict(x.split(": ", 1) for x in answer.splitlines() if ": " in x).get("Pid", "")

    def reload(self) -> None:
        """As ``systemctl reload haproxy`` does, and wait for the next worker."""
        before = self.worker()
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: self.worker() not in ("", before), 10, "a new worker")

    def request(
        self,
        method: str,
        path: str,
        source: str = "127.0.0.1",
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, str, dict[str, str]]:
        context = ssl.create_default_context(cafile=self.pki / "ca.pem")
        client = http.client.HTTPSConnection(
            "127.0.0.1", self.ports["api"], timeout=5, context=context, source_address=(source, 0)
        )
        try:
            client.request(method, path, body or None, headers or {})
            answer = client.getresponse()
            return answer.status, answer.read().decode(), dict(answer.getheaders())
        finally:
            client.close()

    def exporter(self, port: str = "ipfix_tcp") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[port]), 5, (EXPORTER, 0))

    def tls_exporter(self, certificate: str | None) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self.pki / "ca.pem")
        if certificate is not None:
            own = self.pki / certificate
            context.load_cert_chain(own.with_suffix(".pem"), own.with_suffix(".key"))
        return context.wrap_socket(self.exporter("ipfix_tls"), server_hostname="n1")


def echoes(sock: socket.socket, data: bytes) -> bool:
    sock.sendall(data)
    got = b""
    while len(got) < len(data) and (part := sock.recv(65536)):
        got += part
    return got == data


def make_certificates(pki: Path) -> None:
    pki.mkdir()
    for name in ("ca", "exporters-ca", "rogue-ca"):
        authority(pki, name)
    for name, address in (("n1", "127.0.0.1"), ("n2", "127.0.0.2")):
        leaf(pki, name, "ca", "serverAuth,clientAuth", f"DNS:{name},IP:{address}")
    leaf(pki, "api", "ca", "serverAuth", "DNS:n1,IP:127.0.0.1")
    leaf(pki, "r1", "exporters-ca", "clientAuth", "DNS:r1")
    leaf(pki, "rogue", "rogue-ca", "clientAuth", "DNS:r1")
    for ending in ("pem", "key"):
        shutil.copy(pki / f"n1.{ending}", pki / f"node.{ending}")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("haproxy")
    make_certificates(directory / "pki")
    names = ["api", "cluster", "ipfix_tcp", "ipfix_tls", "ipfix_proxied", "haproxy_metrics"]
    ports = {name: free_port(socket.SOCK_STREAM) for name in [*names, "local_api"]}
    outcome = run_role(
        directory, "haproxy", ["preflight", "configure"],
        {"n1": {"tandem_address": "127.0.0.1"}, "n2": {"tandem_address": "127.0.0.2"}},
        {
            **{f"tandem_{name}_port": ports[name] for name in names},
            "haproxy_local_api_port": ports["local_api"],
            "haproxy_pki_directory": str(directory / "pki"),
            "haproxy_directory": str(directory / "pem"),
            "haproxy_config": str(directory / "haproxy.cfg"),
            "haproxy_socket": str(directory / "admin.sock"),
            "haproxy_socket_group": "root",
            "haproxy_api_rate": RATE,
            "haproxy_api_body_bytes": BODY,
        },
    )  # fmt: skip
    assert outcome.failed == 0, outcome.output
    made = Proxy(
        directory,
        ports,
        Api(("127.0.0.1", ports["local_api"]), "n1"),
        Api(("127.0.0.2", ports["cluster"]), "n2", directory / "pki"),
        Collector(("127.0.0.1", ports["ipfix_proxied"])),
        Collector(("127.0.0.2", ports["ipfix_proxied"])),
    )
    with (directory / "haproxy.log").open("wb") as log:
        made.process = subprocess.Popen(
            ["haproxy", "-W", "-f", directory / "haproxy.cfg"], stdout=log, stderr=log
        )
    try:
        wait_for(lambda: made.worker() != "", 10, "HAProxy")
        yield made
    finally:
        made.process.terminate()
        made.process.wait(10)
        for end in (made.api, made.peer_api, made.collector, made.peer_collector):
            end.stop()


@dataclass
class Loop:
    """Does ``action`` again and again beside the test, and counts; it returns what it got."""

    action: Callable[[], str]
    results: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Loop:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.ended.set()
        self.thread.join(10)

    def _run(self) -> None:
        while not self.ended.is_set():
            try:
                self.results.append(self.action())
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(repr(error))
            time.sleep(0.005)

    def further(self, count: int) -> None:
        goal = len(self.results) + count
        wait_for(lambda: len(self.results) >= goal or bool(self.errors), 20, "further results")


def test_a_reload_loses_no_connection(proxy: Proxy):
    def call_api() -> str:
        status, body, _ = proxy.request("GET", "/v1/flows")
        return body if status == 200 else f"status {status}"

    def send_flows() -> str:
        with proxy.exporter() as sock:
            return "echoed" if echoes(sock, os.urandom(3000)) else "cut"

    with proxy.exporter() as long, Loop(call_api) as api, Loop(send_flows) as flows:
        assert echoes(long, b"before")
        for _ in range(3):
            api.further(10)
            flows.further(10)
            proxy.reload()
            assert echoes(long, os.urandom(10_000))
        api.further(10)
        flows.further(10)
    assert (api.errors, flows.errors) == ([], [])
    assert set(api.results) == {"n1"}
    assert set(flows.results) == {"echoed"}


def test_the_collector_learns_the_exporters_address(proxy: Proxy):
    proxy.collector.exporters.clear()
    with proxy.exporter() as sock:
        assert echoes(sock, b"flows")
    echo_over_tls(proxy, "r1")
    assert proxy.collector.exporters == [EXPORTER, EXPORTER]
    assert proxy.collector.errors == []


def echo_over_tls(proxy: Proxy, certificate: str | None) -> None:
    with proxy.tls_exporter(certificate) as sock:
        assert echoes(sock, b"flows")


@pytest.mark.parametrize("certificate", [None, "rogue", "n2"])
def test_ipfix_over_tls_refuses_other_certificates(proxy: Proxy, certificate: str | None):
    proxy.collector.exporters.clear()
    # in TLS 1.3 the client learns of the refusal with the first read
    with pytest.raises((ssl.SSLError, ConnectionError)):
        echo_over_tls(proxy, certificate)
    assert proxy.collector.exporters == []


def test_the_peer_answers_while_the_local_api_does_not(proxy: Proxy):
    def call_api() -> str:
        status, body, _ = proxy.request("GET", "/v1/flows")
        return body if status == 200 else f"status {status}"

    with Loop(call_api) as loop:
        loop.further(20)
        proxy.api.stop()
        wait_for(lambda: loop.results[-1] == "n2" or bool(loop.errors), 10, "an answer of n2")
        loop.further(20)
        # what a node says of itself is never answered by another one
        assert proxy.request("GET", "/metrics")[0] == 503
        assert proxy.request("GET", "/readyz")[0] == 503
        proxy.api = Api(("127.0.0.1", proxy.ports["local_api"]), "n1")
        wait_for(lambda: loop.results[-1] == "n1" or bool(loop.errors), 10, "an answer of n1")
    assert loop.errors == []
    assert set(loop.results) == {"n1", "n2"}


def test_the_peer_collects_while_the_local_collector_does_not(proxy: Proxy):
    with proxy.exporter() as session:
        assert echoes(session, b"flows")
        proxy.collector.stop()
        session.settimeout(5)
        assert session.recv(1) == b"", "the exporter must learn that its session ended"
    # the first connection after the end is not lost either: it is tried at the peer
    for _ in range(5):
        with proxy.exporter() as sock:
            assert echoes(sock, b"flows")
    assert proxy.peer_collector.exporters == [EXPORTER] * 5
    proxy.collector = Collector(("127.0.0.1", proxy.ports["ipfix_proxied"]))
    wait_for(lambda: collects_locally(proxy), 10, "sessions with the local collector")


def collects_locally(proxy: Proxy) -> bool:
    with proxy.exporter() as sock:
        return echoes(sock, b"flows") and bool(proxy.collector.exporters)


def test_headers_and_limits_of_requests(proxy: Proxy):
    proxy.api.headers.clear()
    _, _, answer = proxy.request("GET", "/v1/flows", "127.0.0.8", headers=FORGED)
    assert proxy.api.headers[0]["x-forwarded-for"] == "127.0.0.8"
    assert proxy.api.headers[0]["x-forwarded-proto"] == "https"
    assert answer["strict-transport-security"] == "max-age=31536000"
    assert proxy.request("POST", "/v1/drills", body=bytes(BODY))[0] == 200
    assert proxy.request("POST", "/v1/drills", body=bytes(BODY + 1))[0] == 413


def test_a_client_that_asks_too_often_is_refused_and_others_are_not(proxy: Proxy):
    context = ssl.create_default_context(cafile=proxy.pki / "ca.pem")
    client = http.client.HTTPSConnection(
        "127.0.0.1", proxy.ports["api"], timeout=5, context=context, source_address=("127.0.0.7", 0)
    )
    statuses = []
    for _ in range(RATE + 200):
        client.request("GET", "/v1/flows")
        answer = client.getresponse()
        answer.read()
        statuses.append(answer.status)
        if answer.status == 429:
            break
    client.close()
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= RATE * 0.9
    assert proxy.request("GET", "/v1/flows", "127.0.0.6")[0] == 200


def test_metrics_and_nothing_else_on_their_port(proxy: Proxy):
    client = http.client.HTTPConnection("127.0.0.1", proxy.ports["haproxy_metrics"], timeout=5)
    client.request("GET", "/metrics")
    answer = client.getresponse()
    text = answer.read().decode()
    assert answer.status == 200
    assert 'haproxy_server_status{proxy="api",server="n2",state="UP"} 1' in text
    client.request("GET", "/")
    assert client.getresponse().status == 404
    client.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_protocols_are_refused(proxy: Proxy):
    context = ssl.create_default_context(cafile=proxy.pki / "ca.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    sock = socket.create_connection(("127.0.0.1", proxy.ports["api"]), 5)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(sock, server_hostname="n1")
    sock.close()
