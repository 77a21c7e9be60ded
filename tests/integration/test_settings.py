"""Settings change while a collector runs under load: nothing is lost, and nothing comes twice."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import settings as layer
from appliance.config import load, read_file
from appliance.settings import Settings
from appliance.state import StateReader
from tests.integration.harness import RECORDS, Collector, Traffic, free_port, wait_for
from tests.integration.test_supervisor import EXPORTERS, all_once

ANY = [f"127.{n}.0.0/16" for n in range(20)]


class Node(Collector):
    """A collector whose settings the test changes, as the API would."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.settings = Settings()
        self.took: list[float] = []
        """Seconds that each change needed until it was in force."""

    @property
    def document(self) -> Path:
        return self.directory / "settings.json"

    def write(self, patch: dict[str, Any]) -> None:
        self.settings = layer.patched(self.settings, patch, read_file(self.config))
        layer.save(self.document, self.settings)

    def change(self, patch: dict[str, Any]) -> None:
        begun = time.monotonic()
        self.write(patch)
        self.wait_in_force()
        self.took.append(time.monotonic() - begun)

    def wait_in_force(self) -> None:
        version = self.settings.version
        wait_for(lambda: self.node().get("settings_version") == version, 30, "settings in force")
        node = self.node()
        assert node["settings_problem"] == ""
        assert node["config_sha256"] == load(self.config).sha256()

    def heard(self) -> list[tuple[str, int]]:
        return [(one["address"], one["port"]) for one in self.node()["listeners"]]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.end()


def udp(port: int, address: str = "127.0.0.1") -> dict[str, Any]:
    return {"address": address, "port": port}


def test_settings_of_every_kind_change_under_load_without_loss(node: Node) -> None:
    node.tables["receive"] += "\nmin_workers = 2\nmax_workers = 2"
    node.write_config()
    node.start()
    first, second = node.port, free_port()
    traffic = Traffic(first, 200_000, 6_000, EXPORTERS)
    traffic.start()
    workers = node.worker_pids()
    node.change({"allow": ANY})
    assert len(workers) == 2
    assert not set(workers) & set(node.worker_pids())
    node.change({"limits": {"templates_per_exporter": 5}, "store": {"flush_seconds": 0.3}})
    workers = node.worker_pids()
    node.change({"store": {"retention_days": 3}})
    node.change({"exporter": [{"address": "127.9.0.0/16", "name": "lab"}]})
    assert set(node.worker_pids()) == set(workers)
    node.change({"listener": [udp(first), udp(second)]})
    other = Traffic(second, 2_000, 2_000, 2, first=10)
    other.start()
    node.change({"exporter": [{"address": "127.9.0.0/16", "sampling_rate": 10}]})
    # of two that could have it, a datagram goes to the one with the address: then it leaves
    node.change({"listener": [udp(first, "0.0.0.0"), udp(second)]})
    assert node.heard() == [("127.0.0.1", second), ("0.0.0.0", first)]
    other.join()
    wait_for(lambda: node.stored() >= 2 * 2_000 * RECORDS, 10, "what came through the second")
    node.change({"listener": [udp(first, "0.0.0.0")]})
    assert node.heard() == [("0.0.0.0", first)]
    node.change({"listener": None, "allow": None})
    assert node.heard() == [("127.0.0.1", first)]
    assert traffic.is_alive(), "the load ended before the last change"
    traffic.enough()
    print("seconds until in force:", " ".join(f"{s:.1f}" for s in node.took))
    expected = (EXPORTERS * traffic.count + 2 * other.count) * RECORDS
    wait_for(lambda: node.stored() >= expected, 30, "everything stored")
    time.sleep(0.5)
    numbers = node.numbers()
    assert len(numbers) == len(set(numbers)) == expected
    wait_for(lambda: all(s["balanced"] for s in node.node()["shards"]), 5, "balance")
    ledger = StateReader(node.data).ledger().table
    assert sum(ledger["datagrams_received"].to_pylist()) == traffic.sent + other.sent
    assert sum(ledger["records_stored"].to_pylist()) == expected
    for name in ("sequence_lost", "sequence_duplicates", "sequence_restarts"):
        assert sum(ledger[name].to_pylist()) == 0
    assert "Traceback" not in node.log.read_text()


def test_a_setting_takes_effect(node: Node) -> None:
    node.start()
    node.change({"allow": ["127.9.0.0/24", "127.9.1.0/24"]})
    traffic = Traffic(node.port, 100, 1_000, EXPORTERS)
    traffic.start()
    traffic.join()
    wait_for(lambda: node.stored() == 2 * 100 * RECORDS, 10, "the allowed half stored")
    time.sleep(1)
    assert node.stored() == 2 * 100 * RECORDS


def test_settings_that_make_no_sense_change_nothing_and_stop_nobody(node: Node) -> None:
    node.start()
    node.change({"store": {"retention_days": 3}})
    in_force = node.node()["config_sha256"]
    for text in ("{", '{"version": 9, "values": {"store": {"retention_days": -1}}}'):
        node.document.write_text(text)
        wait_for(lambda: str(node.document) in node.node()["settings_problem"], 10, "the problem")
        assert node.node()["settings_version"] == 1
        assert node.node()["config_sha256"] == in_force
        node.change({"metrics": {"exporters": 7}})
        node.settings = node.settings.model_copy(update={"version": 1})
        layer.save(node.document, node.settings)
        node.wait_in_force()
        in_force = node.node()["config_sha256"]
    node.document.write_text("{")
    assert node.stop() == 0
    node.start()
    wait_for(lambda: "no settings document" in node.node()["settings_problem"], 10, "the problem")
    assert node.node()["settings_version"] == 0
    assert node.node()["config_sha256"] == read_file(node.config).config.sha256()
    assert f"{node.document}: is no settings document" in node.log.read_text()
    traffic = Traffic(node.port, 100, 1_000, EXPORTERS)
    traffic.start()
    all_once(node, traffic.count)
    node.document.unlink()
    wait_for(lambda: node.node()["settings_problem"] == "", 10, "the end of the problem")


def test_a_port_that_is_taken_leaves_the_configuration_in_force_until_it_is_free(
    node: Node,
) -> None:
    node.setup = "import appliance.transition as t; t.RETRY_SECONDS = 1.0"
    node.start()
    traffic = Traffic(node.port, 10_000, 8_000, EXPORTERS)
    traffic.start()
    workers = node.worker_pids()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        taken = int(other.getsockname()[1])
        node.write({"listener": [udp(node.port), udp(free_port()), udp(taken)]})
        said = f"cannot listen on udp://127.0.0.1:{taken}: Address already in use; another"
        wait_for(lambda: node.node()["settings_problem"].startswith(said), 10, "the problem")
        assert node.node()["settings_version"] == 0
        assert node.heard() == [("127.0.0.1", node.port)]
        assert node.worker_pids() == workers
        # nor does it keep a collector from starting
        traffic.join()
        all_once(node, traffic.count)
        assert node.stop() == 0
        node.start()
        wait_for(lambda: node.node()["settings_problem"].startswith(said), 10, "the problem")
        assert node.heard() == [("127.0.0.1", node.port)]
    node.wait_in_force()
    assert ("127.0.0.1", taken) in node.heard()


def test_what_needs_a_restart_is_named_and_the_rest_is_used(node: Node) -> None:
    node.start()
    node.tables["receive"] = node.tables["receive"].replace("shards = 4", "shards = 2")
    node.write_config("[limits]\ntemplates_per_exporter = 5\n")
    before = node.node()["config_sha256"]
    os.kill(node.pid, signal.SIGHUP)
    wait_for(lambda: node.node()["config_sha256"] != before, 20, "the new configuration")
    assert "receive.shards" in node.node()["pending_restart"]
    wait_for(lambda: len(node.node()["shards"]) == 4, 10, "all four shards")
    node.shards = 2
    assert node.stop() == 0
    node.start()
    assert node.node()["pending_restart"] == []


def test_a_disk_that_hangs_beneath_the_settings_stops_nobody(node: Node) -> None:
    node.start()
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    others = {int(pid) for pid in children} - set(node.worker_pids())
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    node.write({"store": {"retention_days": 3}})
    os.kill(node.pid, signal.SIGHUP)
    since = time.time_ns()
    wait_for(lambda: node.node()["updated_ns"] > since + 3 * 10**9, 10, "three seconds more")
    assert node.node()["settings_version"] == 0
    for pid in others:
        os.kill(pid, signal.SIGCONT)
    node.wait_in_force()


def test_workers_that_die_while_settings_change_lose_nothing(node: Node) -> None:
    node.start()
    traffic = Traffic(node.port, 200_000, 6_000, EXPORTERS)
    traffic.start()
    wide = {"listener": [udp(node.port, "0.0.0.0")]}
    for n in range(4):
        node.write(wide if n % 2 == 0 else {"listener": None})
        time.sleep(1.0 + 0.3 * n)  # somewhere among the steps
        for pid in node.worker_pids():
            with contextlib.suppress(ProcessLookupError):  # it has just been replaced
                os.kill(pid, signal.SIGKILL)
        node.wait_in_force()
    assert node.heard() == [("127.0.0.1", node.port)]
    assert "signal SIGKILL" in node.log.read_text()
    traffic.enough()
    all_once(node, traffic.count)
    wait_for(lambda: all(s["balanced"] for s in node.node()["shards"]), 5, "balance")
