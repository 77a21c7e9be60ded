"""The sender keeps its rate whatever the network does, and its log says what it has sent.

That its datagrams decode, and that their numbers are right, is proven with collectors by the judge.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.drill.sendlog import SendLog
from measure.namespace import enter
from tests.integration.harness import free_port, wait_for

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
NAMES = ("measure-test-a", "measure-test-b")


def start(log: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "measure", "send", *arguments, "--log", str(log)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    document: dict[str, Any] = json.loads(output)
    return document


_BUFFER_OPTION = 33 if os.geteuid() == 0 else socket.SO_RCVBUF
"""``SO_RCVBUFFORCE``, which only root may use."""


class Sink(threading.Thread):
    """Counts what arrives, until nothing has come for a second."""

    def __init__(self, netns: str | None = None) -> None:
        super().__init__(daemon=True)
        self._netns = netns
        self._ready = threading.Event()
        self.port = 0
        self.count = 0

    def begin(self) -> int:
        self.start()
        assert self._ready.wait(10)
        return self.port

    def run(self) -> None:
        if self._netns:
            enter(self._netns)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            # this thread may have to wait for its turn, and nothing is to be lost meanwhile
            sock.setsockopt(socket.SOL_SOCKET, _BUFFER_OPTION, 8 << 20)
            sock.bind(("::", 0))
            self.port = sock.getsockname()[1]
            self._ready.set()
            sock.settimeout(10)
            while True:
                try:
                    sock.recv(65536)
                except TimeoutError:
                    return
                self.count += 1
                sock.settimeout(1)


@pytest.fixture
def pair() -> Iterator[tuple[str, str]]:
    """Two namespaces with a link between them."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    one, other = NAMES
    try:
        for name in NAMES:
            ip("netns", "add", name)
        macs = ["02:00:00:00:00:01", "02:00:00:00:00:02"]
        ip("-n", one, "link", "add", "eth", "address", macs[0], "type", "veth",
           "peer", "name", "eth", "address", macs[1], "netns", other)  # fmt: skip
        for i, name in enumerate(NAMES, 1):
            ip("-n", name, "address", "add", f"192.0.2.{i}/24", "dev", "eth")
            ip("-n", name, "address", "add", f"2001:db8::{i}/64", "dev", "eth", "nodad")
            ip("-n", name, "link", "set", "eth", "up")
            # asking for each other's MACs takes IPv6 up to a second on a link that is new; only 256
            # small datagrams wait for the answer
            for address in (f"192.0.2.{3 - i}", f"2001:db8::{3 - i}"):
                ip("-n", name, "neighbour", "replace", address, "lladdr", macs[2 - i],
                   "dev", "eth", "nud", "permanent")  # fmt: skip
        yield NAMES
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "delete", name], check=False)


@ROOT
@pytest.mark.parametrize("address", ["192.0.2.2", "2001:db8::2"])
def test_it_sends_from_a_namespace(pair: tuple[str, str], tmp_path: Path, address: str):
    sink = Sink(pair[1])
    port = sink.begin()
    log = tmp_path / "log.npz"
    found = result(
        start(log, address, str(port), "--netns", pair[0], "--rate", "1000", "--seconds", "0.5")
    )
    sink.join()
    assert sink.count == found["sent_datagrams"] == SendLog.open(log).sent > 0
    assert found["source"] == address[:-1] + "1"


@ROOT
def test_what_the_kernel_refuses_is_counted_and_sent_later(pair: tuple[str, str], tmp_path: Path):
    sink = Sink(pair[1])
    address = ("192.0.2.2", str(sink.begin()))
    log = tmp_path / "log.npz"
    sender = start(log, *address, "--netns", pair[0], "--rate", "1000", "--seconds", "2")
    wait_for(lambda: sink.count > 0, 10, "the first datagram")
    subprocess.run(["ip", "-n", pair[0], "link", "set", "eth", "down"], check=True)
    time.sleep(0.3)
    subprocess.run(["ip", "-n", pair[0], "link", "set", "eth", "up"], check=True)
    found = result(sender)
    assert found["errors"].keys() == {"ENETUNREACH"}
    assert found["largest_pause_ms"] > 200
    assert SendLog.open(log).errors == found["errors"]


def test_a_closed_port_does_not_break_the_rate(tmp_path: Path):
    found = result(start(tmp_path / "log.npz", "127.0.0.1", str(free_port()), "--seconds", "1"))
    assert not found["errors"]
    # a machine that is busy may slow it down, an ICMP error for every datagram may not
    assert found["datagrams_per_second"] > 5000
    assert np.median(SendLog.open(tmp_path / "log.npz").datagrams) == 10


def test_sigterm_ends_it_with_a_whole_log(tmp_path: Path):
    sink = Sink()
    log = tmp_path / "log.npz"
    sender = start(log, "127.0.0.1", str(sink.begin()), "--rate", "500", "--seconds", "60")
    wait_for(lambda: sink.count > 0, 10, "the first datagram")
    time.sleep(0.3)
    sender.send_signal(signal.SIGTERM)
    found = result(sender)
    sink.join()
    sent = SendLog.open(log)
    assert sink.count == found["sent_datagrams"] == sent.sent
    assert found["last_ns"] == sent.sent_wall_ns[-1]
    assert (np.diff(sent.sent_monotonic_ns) >= 0).all()


@pytest.mark.parametrize(
    "wrong", [["--protocol", "v9,v9"], ["--protocol", "v8"], ["--run", "65536"], ["--records", "0"]]
)
def test_what_cannot_be_sent_is_refused(tmp_path: Path, wrong: list[str]):
    sender = start(tmp_path / "log.npz", "127.0.0.1", "9", *wrong)
    sender.communicate(timeout=30)
    assert sender.returncode == 2
