"""A collector and its watcher: what keepalived is told when one hangs, dies, or fills its disk."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import settings
from appliance.health import canary
from appliance.health.report import TrackFile
from appliance.health.state_socket import ask
from appliance.settings import Settings
from appliance.state import StateReader
from tests.integration.harness import RECORDS, Collector, Traffic, free_port, wait_for

HUNG_SECONDS = 0.5
SCM_CREDENTIALS = 2
PATIENT = """
import appliance.health.judge as judge
for state in (judge.State.STARTING, judge.State.KILLED):
    judge.RULES[state] = judge.Rule(-150, 30.0, 2.0)
"""
"""For the watcher: a busy machine may take its time to start a collector."""


class Watched(Collector):
    """A collector with ``tandem health`` beside it."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.run = directory / "run"
        self.run.mkdir()
        health = f'directory = "{self.run}"\nhung_seconds = {HUNG_SECONDS}'
        super().__init__(directory, health=health, **options)
        self.track = TrackFile(self.run / "health")
        self.watcher: subprocess.Popen[bytes] | None = None
        self.patience = PATIENT

    def watch(self) -> None:
        code = f"{self.patience}\nfrom appliance.cli.main import main\n"
        code += f"main(['health', '--config', '{self.config}'])"
        command = [sys.executable, "-c", code]
        if self.disk_bytes:  # the key is in the collector's file system
            command = ["nsenter", "-m", "-t", str(self.pid), *command]
        with (self.directory / "health.log").open("ab") as log:
            self.watcher = subprocess.Popen(command, stdout=log, stderr=log)

    def end_watch(self) -> int:
        assert self.watcher is not None
        self.watcher.terminate()
        return self.watcher.wait(10)

    @property
    def value(self) -> int | None:
        return self.track.read()

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.run / "health.json").read_text())
        return document

    def family(self) -> list[int]:
        """The supervisor and all of its children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *map(int, children.split())]

    def signal_all(self, number: int) -> None:
        for pid in self.family():
            os.kill(pid, number)

    def end(self) -> None:
        if self.watcher is not None and self.watcher.poll() is None:
            self.watcher.kill()
            self.watcher.wait()
        if self.pid:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                self.signal_all(signal.SIGCONT)
        super().end()


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Watched]:
    node = Watched(tmp_path, **getattr(request, "param", {}))
    yield node
    node.end()


@pytest.fixture
def healthy(node: Watched) -> Watched:
    node.start()
    node.watch()
    wait_for(lambda: node.value == 0, 15, "a healthy node")
    return node


def seconds_until(condition: Callable[[], bool], most: float) -> float:
    begun = time.monotonic()
    wait_for(condition, most, "the new value")
    return time.monotonic() - begun


class Values(threading.Thread):
    """All values that the file has while the block runs, looked at as often as possible."""

    def __init__(self, node: Watched) -> None:
        super().__init__(daemon=True)
        self.node, self.seen, self._ended = node, set[int | None](), threading.Event()

    def __enter__(self) -> set[int | None]:
        self.start()
        return self.seen

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(0.001):
            self.seen.add(self.node.value)


def test_a_node_without_a_collector_is_not_healthy_and_one_that_proves_itself_is(
    node: Watched,
) -> None:
    node.watch()
    wait_for(lambda: node.value == -150, 10, "the file")
    time.sleep(1)
    assert node.value == -150
    assert node.document()["state"] == "starting"
    node.start()
    wait_for(lambda: node.value == 0, 10, "health")
    document = node.document()
    assert document["state"] == "ok"
    assert document["value"] == 0
    assert [s["shard"] for s in document["shards"]] == [0, 1, 2, 3]
    assert all(s["age_seconds"] < HUNG_SECONDS for s in document["shards"])
    assert abs(time.time_ns() - document["updated_ns"]) < 1_000_000_000


def test_a_collector_that_is_stopped_is_hung_and_recovers(healthy: Watched) -> None:
    healthy.signal_all(signal.SIGSTOP)
    took = seconds_until(lambda: healthy.value == -150, 5)
    assert took <= HUNG_SECONDS + 0.3
    assert "does not answer" in healthy.document()["reason"]
    assert healthy.document()["state"] == "hung"
    healthy.signal_all(signal.SIGCONT)
    assert 1.5 <= seconds_until(lambda: healthy.value == 0, 10) <= 4


@pytest.mark.parametrize(
    "node", [{"receive": "shards = 4\nmin_workers = 2\nmax_workers = 2"}], indirect=True
)
def test_one_worker_of_several_that_is_stopped_is_enough(healthy: Watched) -> None:
    worker = healthy.worker_pids()[1]
    os.kill(worker, signal.SIGSTOP)
    assert seconds_until(lambda: healthy.value == -150, 5) <= HUNG_SECONDS + 0.3
    os.kill(worker, signal.SIGCONT)
    wait_for(lambda: healthy.value == 0, 10, "health")


def test_a_worker_that_is_killed_is_replaced_before_anybody_is_told(healthy: Watched) -> None:
    (worker,) = healthy.worker_pids()
    os.kill(worker, signal.SIGKILL)
    with Values(healthy) as values:
        wait_for(lambda: healthy.document()["state"] == "killed", 5, "a gap")
        wait_for(lambda: healthy.document()["state"] == "ok", 25, "health")
    assert values == {0}
    wait_for(lambda: healthy.worker_pids() not in ([], [worker]), 5, "another worker")


def test_a_worker_that_hangs_for_good_is_replaced(node: Watched) -> None:
    node.setup = "import appliance.pool as s; s.SILENT_SECONDS = 3.0"
    node.start()
    node.watch()
    wait_for(lambda: node.value == 0, 15, "health")
    (worker,) = node.worker_pids()
    time.sleep(1.5)  # until it has reported that it has its shards
    os.kill(worker, signal.SIGSTOP)
    wait_for(lambda: node.value == -150, 5, "the verdict")
    wait_for(lambda: node.value == 0, 25, "health")
    assert worker not in node.worker_pids()


def test_the_service_manager_hears_that_both_are_well(
    node: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: dict[int, set[str]] = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        manager.settimeout(15)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "10000000")
        node.start()
        node.watch()
        assert node.watcher is not None
        expected = {
            node.pid: {"READY=1", "WATCHDOG=1"},
            node.watcher.pid: {"READY=1", "WATCHDOG=1", "STATUS=ok: all shards answer"},
        }
        while not all(lines <= heard.get(pid, set()) for pid, lines in expected.items()):
            data, control, _, _ = manager.recvmsg(4096, 1024)
            (pid,) = [
                struct.unpack("3i", bytes(d))[0] for _, k, d in control if k == SCM_CREDENTIALS
            ]
            heard.setdefault(pid, set()).update(data.decode().split("\n"))


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a capability needs root")
def test_nothing_is_left_of_a_capability_that_was_given() -> None:
    show = "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('Cap')])"
    code = f"from appliance.receive.capabilities import drop; {show}; drop(); {show}"
    give = ["--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"]
    user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"]
    done = subprocess.run(
        ["setpriv", *user, *give, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = done.stdout.splitlines()
    inheritable, permitted, effective, _, ambient = ast.literal_eval(before)
    assert {int(x, 16) for x in (inheritable, permitted, effective, ambient)} == {1 << 12}
    inheritable, permitted, effective, _, ambient = ast.literal_eval(after)
    assert {int(x, 16) for x in (inheritable, permitted, effective, ambient)} == {0}


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a capability needs root")
def test_a_capability_that_was_set_aside_is_there_for_a_moment_and_for_no_child() -> None:
    show = (
        "print([int(l.split()[1], 16) >> 12 & 1 for l in open('/proc/self/status') "
        "if l.startswith(('CapInh', 'CapPrm', 'CapEff', 'CapAmb'))])"
    )
    code = "\n".join(
        [
            "from appliance.receive.capabilities import drop, raised, set_aside",
            "set_aside()",
            show,
            "with raised():",
            f"    {show}",
            show,
            "drop()",
            "with raised():",
            f"    {show}",
        ]
    )
    give = ["--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"]
    user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"]
    done = subprocess.run(
        ["setpriv", *user, *give, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    seen = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    aside, up, none = [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]  # inheritable, permitted, …
    assert seen == [aside, up, aside, none]


def test_listeners_come_and_go_and_keepalived_hears_nothing_of_it(healthy: Watched) -> None:
    first, second = healthy.port, free_port()

    def listen(version: int, *ports: int) -> None:
        values = {"listener": [{"address": "127.0.0.1", "port": port} for port in ports]}
        settings.save(healthy.directory / "settings.json",
                      Settings(version=version, values=values))  # fmt: skip
        wait_for(lambda: healthy.node().get("settings_version") == version, 30, "in force")

    def proven() -> bool:
        return all(s["age_seconds"] < 1 for s in healthy.document()["shards"])

    with Values(healthy) as values:
        listen(1, first, second)
        listen(2, second)
        # what is proven is now proven through the second alone
        time.sleep(2 * HUNG_SECONDS)
        wait_for(lambda: healthy.document()["state"] == "ok" and proven(), 25, "health")
    assert values == {0}


def test_a_configuration_that_is_read_again_moves_nothing(healthy: Watched) -> None:
    (worker,) = healthy.worker_pids()
    healthy.write_config("[limits]\ntemplates_per_exporter = 5\n")
    with Values(healthy) as values:
        os.kill(healthy.pid, signal.SIGHUP)
        wait_for(lambda: worker not in healthy.worker_pids() != [], 25, "another worker")
        wait_for(lambda: healthy.document()["state"] == "ok", 25, "health")
    assert values == {0}


@pytest.mark.parametrize("node", [{"held_sockets": True}], indirect=True)
def test_a_collector_that_is_killed_and_comes_back_keeps_its_value(healthy: Watched) -> None:
    with Values(healthy) as values:
        healthy.kill()
        wait_for(lambda: healthy.document()["state"] == "killed", 5, "a gap")
        healthy.start()
        wait_for(lambda: healthy.document()["state"] == "ok", 25, "health")
    assert values == {0}


def test_a_collector_that_does_not_come_back_loses_it_after_the_grace(node: Watched) -> None:
    node.start()
    node.patience = ""
    node.watch()
    wait_for(lambda: node.value == 0, 15, "health")
    healthy = node
    healthy.kill()
    assert 4.5 <= seconds_until(lambda: healthy.value == -150, 10) <= 5.7
    assert healthy.document()["state"] == "killed"
    healthy.start()
    wait_for(lambda: healthy.value == 0, 10, "health")


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system of its own needs root")
@pytest.mark.parametrize("node", [{"disk_bytes": 112 << 20}], indirect=True)
def test_a_full_disk_is_told_apart(healthy: Watched) -> None:
    ballast = healthy.data / "ballast"
    page = bytes(4096)
    with ballast.open("wb", buffering=0) as file:

        def filled() -> bool:
            """Fill what is free, also what the collector gives up to be able to go on."""
            with contextlib.suppress(OSError):
                while file.write(page):
                    pass
            return healthy.value != 0

        took = seconds_until(filled, 30)
    assert healthy.value == -50
    assert took >= 1.5
    wait_for(lambda: healthy.document()["state"] == "disk_full", 2, "the document")
    assert "No space left" in healthy.document()["reason"]
    time.sleep(2)
    assert healthy.value == -50
    ballast.unlink()
    assert seconds_until(lambda: healthy.value == 0, 15) >= 4.5


@pytest.mark.parametrize("node", [{"receive": "shards = 4\nmax_workers = 1"}], indirect=True)
def test_load_is_no_illness_and_canaries_are_no_traffic(healthy: Watched) -> None:
    traffic = Traffic(healthy.port, 25_000, 20_000)
    traffic.start()
    with Values(healthy) as values:
        traffic.join()
    assert values == {0}
    expected = 4 * traffic.count * RECORDS
    wait_for(lambda: healthy.stored() >= expected, 30, "everything stored")
    wait_for(lambda: all(s["balanced"] for s in healthy.node()["shards"]), 5, "balance")
    # what a worker says of its listeners can be some seconds old while it has much to do
    wait_for(lambda: [x["datagrams"] for x in healthy.node()["listeners"]] == [4 * traffic.count],
             10, lambda: str(healthy.node()["listeners"]))  # fmt: skip
    assert all(s["canaries"] > 10 for s in healthy.node()["shards"])
    table = StateReader(healthy.data).ledger().table
    assert set(table["exporter"].to_pylist()) == {f"127.9.{i}.1" for i in range(4)}
    assert sum(table["datagrams_received"].to_pylist()) == 4 * traffic.count
    healthy.kill()
    healthy.start()
    wait_for(lambda: all(s["balanced"] for s in healthy.node()["shards"]), 5, "balance")


def test_a_canary_with_another_key_is_a_datagram_like_others(healthy: Watched) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(canary.payload(bytes(16), 7), ("127.0.0.1", healthy.port))

    def unknown() -> list[int]:
        table = StateReader(healthy.data).ledger().table
        counted: list[int] = table["datagrams_unknown_version"].to_pylist()
        return counted

    wait_for(lambda: unknown() == [1], 10, "one datagram of an unknown version")


def test_the_end_of_the_watcher_leaves_the_value_and_the_next_one_takes_it_over(
    healthy: Watched,
) -> None:
    assert healthy.end_watch() == 0
    assert healthy.value == 0
    before = (healthy.run / "health").stat().st_mtime_ns
    healthy.watch()
    wait_for(lambda: healthy.document()["state"] == "ok", 5, "the next watcher's word")
    assert (healthy.run / "health").stat().st_mtime_ns == before


def test_the_collector_itself_answers_at_its_socket(node: Watched) -> None:
    node.start()
    path = node.run / "collector.sock"
    assert path.stat().st_mode & 0o777 == 0o660
    # those who connect and never read keep nobody waiting
    idle = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for sock in idle:
        sock.connect(str(path))
    document = json.loads(ask(path, 2.0))
    assert document["pid"] == node.pid
    assert abs(time.time_ns() - document["updated_ns"]) < 1_000_000_000
    for sock in idle:
        sock.close()
    os.kill(node.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        ask(path, 0.3)
    os.kill(node.pid, signal.SIGCONT)
    assert node.stop() == 0
    assert not path.exists()
