"""Workers come and go, configurations change, disks fill: the collector goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.store import retired
from tests.integration.harness import RECORDS, Collector, Traffic, wait_for

EXPORTERS = 4


@pytest.fixture
def collector(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Collector]:
    collector = Collector(tmp_path, **getattr(request, "param", {}))
    yield collector
    collector.end()


def all_once(collector: Collector, count: int) -> None:
    expected = EXPORTERS * count * RECORDS
    wait_for(lambda: collector.stored() >= expected, 30, "everything stored")
    time.sleep(0.5)
    numbers = collector.numbers()
    assert len(numbers) == len(set(numbers)) == expected


def test_workers_grow_with_the_backlog_and_shrink_without_losing_anything(
    collector: Collector,
) -> None:
    collector.tables["receive"] += "\nmin_workers = 1\nmax_workers = 2"
    collector.write_config()
    collector.setup = "import appliance.pool as s; s.SHRINK_AFTER_SECONDS = 3; s.SHRINK_LOAD = 10"
    collector.start()
    traffic = Traffic(collector.port, 20_000, 8_000, EXPORTERS)
    traffic.start()
    (worker,) = collector.worker_pids()
    deadline = time.monotonic() + 30
    grown = False
    while not grown and time.monotonic() < deadline:
        # a worker that gets no processor time is behind
        os.kill(worker, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(worker, signal.SIGCONT)
        time.sleep(0.3)
        grown = len(collector.worker_pids()) == 2
    assert grown
    served = [set(w["shards"]) for w in collector.node()["workers"] if w["shards"]]
    assert set.union(*served) <= {0, 1, 2, 3}
    wait_for(lambda: len(collector.worker_pids()) == 1, 30, "one worker again")
    traffic.join()
    all_once(collector, traffic.count)


def test_a_wrong_configuration_leaves_the_one_in_force_and_a_right_one_costs_nothing(
    collector: Collector,
) -> None:
    collector.start()
    before = collector.node()["config_sha256"]
    traffic = Traffic(collector.port, 10_000, 20_000, EXPORTERS)
    traffic.start()
    collector.write_config("[limits]\ntemplates_per_exportr = 5\n")
    os.kill(collector.pid, signal.SIGHUP)
    wait_for(lambda: "templates_per_exportr" in collector.log.read_text(), 10, "the complaint")
    assert f"{collector.config}:" in collector.log.read_text()
    assert collector.node()["config_sha256"] == before
    collector.write_config("[limits]\ntemplates_per_exporter = 5\n")
    os.kill(collector.pid, signal.SIGHUP)
    wait_for(lambda: collector.node()["config_sha256"] != before, 10, "the new configuration")
    traffic.join()
    all_once(collector, traffic.count)


def test_with_fewer_shards_than_before_what_the_others_have_is_stored(collector: Collector) -> None:
    collector.tables["store"] = "flush_seconds = 60"
    collector.write_config()
    collector.start()
    traffic = Traffic(collector.port, 200, 1_000, EXPORTERS)
    traffic.start()
    traffic.join()
    time.sleep(0.5)
    collector.kill()
    assert collector.stored() == 0
    collector.tables["store"] = "flush_seconds = 0.2"
    collector.tables["receive"] = collector.tables["receive"].replace("shards = 4", "shards = 2")
    collector.shards = 2
    collector.write_config()
    collector.start()
    all_once(collector, traffic.count)
    assert collector.stop() == 0
    assert not list(collector.data.glob("shards/[23]/journal/*.block"))


def test_exporters_that_are_not_allowed_are_refused_and_counted(collector: Collector) -> None:
    collector.top = 'allow = ["127.9.0.0/24", "127.9.1.0/24"]\n'
    collector.write_config()
    collector.start()
    traffic = Traffic(collector.port, 100, 1_000, EXPORTERS)
    traffic.start()
    traffic.join()
    wait_for(lambda: collector.stored() == 2 * 100 * RECORDS, 10, "the allowed half stored")
    wait_for(lambda: all(s["balanced"] for s in collector.node()["shards"]), 5, "balance")


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system of its own needs root")
@pytest.mark.parametrize(
    "collector",
    [{"disk_bytes": 112 << 20, "store": "flush_seconds = 0.2\nreserve_bytes = 8388608"}],
    indirect=True,
)
def test_on_a_full_disk_the_oldest_flows_go_and_are_counted(collector: Collector) -> None:
    collector.tables["journal"] = "max_bytes = 67108864"
    collector.write_config()
    collector.start()
    traffic = Traffic(collector.port, 40_000, 25_000, EXPORTERS)
    traffic.start()
    traffic.join()
    expected = EXPORTERS * traffic.count * RECORDS

    def gone() -> int:
        return sum(retired.load(collector.data / "store").rows(retired.Reason.DISK_FULL).values())

    def dropped() -> int:
        """Records of datagrams that the kernel had no room for while nothing could be stored."""
        return RECORDS * sum(x["kernel_dropped"] for x in collector.node()["listeners"])

    def accounted() -> int:
        try:
            return collector.stored() + gone() + dropped()
        except FileNotFoundError:
            return -1  # a segment went while it was looked at

    wait_for(lambda: accounted() == expected, 30, f"stored + named losses = {expected} sent")
    newest = max(number for _, number in collector.numbers())
    assert newest == traffic.count * RECORDS
    assert gone() > 0
    assert "Traceback" not in collector.log.read_text()
