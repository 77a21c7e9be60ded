"""The process that makes faults: what it runs, and that it undoes it whatever dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.fault.ask import ask
from appliance.fault.verbs import FaultFailed
from tests.integration.cluster import within
from tests.integration.harness import wait_for

SPACES = ("tandem-t-fault", "tandem-t-fault-peer")

CONFIG = """
[node]
name = "n1"
[api]
port = 18080
[drill]
socket = "socket"
fence = "fence"
{drill}
[cluster]
name = "tests"
ca = "ca"
certificate = "ca"
key = "ca"
[[cluster.node]]
name = "n1"
address = "{address}"
"""
SYSTEMCTL = """#!/bin/sh
echo "$@" >> {calls}
test ! -e {broken}
"""


class Fault:
    """The process, with a ``systemctl`` that only notes what it is asked for."""

    def __init__(self, folder: Path, address: str = "127.0.0.1", drill: str = "") -> None:
        self.folder = folder
        self.space = ""
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "bin").mkdir()
        (folder / "tandem.toml").write_text(CONFIG.format(address=address, drill=drill))
        self.calls = folder / "calls"
        self.broken = folder / "broken"
        self.program("bin/systemctl", SYSTEMCTL.format(calls=self.calls, broken=self.broken))
        self.program("fence", f'#!/bin/sh\necho fence "$@" >> {self.calls}\n')

    def program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    def start(self) -> None:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        command = [sys.executable, "-m", "appliance.fault", "--config"]
        command += [str(self.folder / "tandem.toml"), "--state", str(self.folder)]
        if self.space:
            command = ["ip", "netns", "exec", self.space, *command]
        (self.folder / "socket").unlink(missing_ok=True)
        self.process = subprocess.Popen(command, env={**os.environ, "PATH": path})
        wait_for((self.folder / "socket").exists, 20, "its socket")

    def end(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None

    def ask(self, **request: Any) -> dict[str, Any]:
        return ask(self.folder / "socket", request)

    def did(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def fault(tmp_path: Path) -> Iterator[Fault]:
    made = Fault(tmp_path)
    made.start()
    yield made
    made.end()


STOP = ["stop --no-block keepalived.service", "start keepalived.service"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("collector-kill", ["kill --signal=SIGKILL tandem-collector.service",
                            "start tandem-collector.service"]),
        ("collector-hang", ["kill --signal=SIGSTOP tandem-collector.service",
                            "kill --signal=SIGCONT tandem-collector.service"]),
        ("keepalived-stop", STOP),
        ("haproxy-stop", ["stop --no-block haproxy.service", "start haproxy.service"]),
    ],
)  # fmt: skip
def test_each_fault_is_done_and_undone(fault: Fault, kind: str, expected: list[str]) -> None:
    before = time.time_ns()
    done = fault.ask(ask="do", kind=kind, seconds=30)["time_ns"]
    assert before < done < time.time_ns()
    assert fault.did() == expected[:1]
    assert fault.ask(ask="state")["active"] == kind
    fault.ask(ask="undo")
    assert fault.did() == expected
    state = fault.ask(ask="state")
    assert (state["active"], kind in state["kinds"]) == (None, True)
    fault.ask(ask="undo")
    assert fault.did() == expected, "there is nothing to undo any more"


def test_one_that_nobody_undoes_ends_by_itself(fault: Fault) -> None:
    fault.ask(ask="do", kind="keepalived-stop", seconds=0.5)
    wait_for(lambda: fault.did() == STOP, 3, "undone")
    assert not (fault.folder / "active.json").exists()


def test_what_a_dead_process_has_left_is_undone_at_the_start_of_the_next(fault: Fault) -> None:
    fault.ask(ask="do", kind="keepalived-stop", seconds=300)
    fault.end(signal.SIGKILL)
    assert fault.did() == STOP[:1]
    fault.start()
    wait_for(lambda: fault.did() == STOP, 3, "undone")
    # and where it cannot even be known what it was, everything is
    (fault.folder / "active.json").write_text("")
    fault.end(signal.SIGKILL)
    fault.start()
    wait_for(lambda: len(fault.did()) >= 6, 3, "all undone")
    assert not any("stop" in call or "SIGKILL" in call for call in fault.did()[1:])


def test_it_undoes_the_fault_when_it_is_stopped(fault: Fault) -> None:
    fault.ask(ask="do", kind="keepalived-stop", seconds=300)
    fault.end(signal.SIGTERM)
    assert fault.did() == STOP


def test_what_cannot_be_undone_is_tried_again(fault: Fault) -> None:
    fault.ask(ask="do", kind="keepalived-stop", seconds=0.3)
    fault.broken.touch()
    wait_for(lambda: len(fault.did()) >= 3, 5, "two attempts")
    assert fault.ask(ask="state")["active"] == "keepalived-stop"
    fault.broken.unlink()
    wait_for(lambda: fault.ask(ask="state")["active"] is None, 5, "undone")


def test_what_is_refused(fault: Fault) -> None:
    for request, reason in (
        ({"ask": "do", "kind": "switchover", "seconds": 3}, "cannot be done here"),
        ({"ask": "do", "kind": "keepalived-stop", "seconds": 3600}, "300 s at most"),
        ({"ask": "do", "kind": "keepalived-stop", "seconds": "x"}, "no such request"),
        ({"ask": "do"}, "no such request"),
        ({}, "no such request"),
    ):
        with pytest.raises(FaultFailed, match=reason):
            fault.ask(**request)
    fault.ask(ask="do", kind="haproxy-stop", seconds=30)
    with pytest.raises(FaultFailed, match="haproxy-stop is not undone yet"):
        fault.ask(ask="do", kind="keepalived-stop", seconds=30)
    fault.ask(ask="undo")
    fault.broken.touch()
    with pytest.raises(FaultFailed, match="keepalived"):
        fault.ask(ask="do", kind="keepalived-stop", seconds=30)


def test_the_fence_gets_the_name_of_the_node(fault: Fault) -> None:
    fault.ask(ask="do", kind="node-kill", seconds=30)
    assert fault.did() == ["fence n1"]
    assert fault.ask(ask="state")["active"] is None


def test_the_configuration_forbids_kinds(tmp_path: Path) -> None:
    fault = Fault(tmp_path, drill='kinds = ["switchover", "haproxy-stop"]')
    fault.start()
    try:
        assert fault.ask(ask="state")["kinds"] == ["haproxy-stop"]
        with pytest.raises(FaultFailed, match="allowed: haproxy-stop"):
            fault.ask(ask="do", kind="partition", seconds=3)
    finally:
        fault.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
@pytest.mark.skipif(shutil.which("nft") is None, reason="nftables is not installed")
def test_a_partition_cuts_the_interface_and_those_on_top_of_it(tmp_path: Path) -> None:
    one, two = SPACES

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def reached(address: str) -> bool:
        with within(one), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
            there.bind((address, 0))
            there.settimeout(0.3)
            with within(two), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
                here.sendto(b"?", there.getsockname())
            try:
                return there.recv(10) == b"?"
            except TimeoutError:
                return False

    fault = Fault(tmp_path, "10.98.0.1")
    fault.space = one
    try:
        for space in SPACES:
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
        ip("link", "add", "host0", "netns", one, "type", "veth", "peer", "host0", "netns", two)
        for number, space in enumerate(SPACES, 1):
            ip("-n", space, "addr", "add", f"10.98.0.{number}/24", "dev", "host0")
            ip("-n", space, "link", "set", "host0", "up")
        # as keepalived's use_vmac makes it
        ip(
            "-n",
            one,
            "link",
            "add",
            "vrrp51",
            "link",
            "host0",
            "type",
            "macvlan",
            "mode",
            "private",
        )
        ip("-n", one, "addr", "add", "10.98.0.100/32", "dev", "vrrp51")
        ip("-n", one, "link", "set", "vrrp51", "up")
        fault.start()
        wait_for(lambda: reached("10.98.0.1") and reached("10.98.0.100"), 10, "a way")
        fault.ask(ask="do", kind="partition", seconds=300)
        assert not reached("10.98.0.1")
        assert not reached("10.98.0.100")
        fault.ask(ask="undo")
        wait_for(lambda: reached("10.98.0.1") and reached("10.98.0.100"), 10, "the way back")
        # the process that could undo it is dead
        fault.ask(ask="do", kind="partition", seconds=300)
        fault.end(signal.SIGKILL)
        assert not reached("10.98.0.1")
        fault.start()
        wait_for(lambda: reached("10.98.0.1"), 10, "undone by the next process")
        rules = subprocess.run(
            ["ip", "netns", "exec", one, "nft", "-j", "list", "ruleset"], capture_output=True
        )
        assert not any("table" in entry for entry in json.loads(rules.stdout)["nftables"])
    finally:
        fault.end()
        for space in SPACES:
            subprocess.run(["ip", "netns", "del", space], capture_output=True)
