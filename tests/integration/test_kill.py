"""What a collector has received is stored once, whatever kills it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import RECORDS, Collector, Traffic, wait_for

EXPORTERS = 4
COUNT = 10_000
RATE = 20_000


def expected(count: int) -> int:
    return EXPORTERS * count * RECORDS


@pytest.fixture
def collector(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Collector]:
    collector = Collector(tmp_path, held_sockets=getattr(request, "param", False))
    collector.start()
    yield collector
    collector.end()


def assert_each_number_once(collector: Collector, count: int) -> None:
    wait_for(lambda: collector.stored() >= expected(count), 30, f"{collector.stored()} stored")
    time.sleep(0.5)
    numbers = collector.numbers()
    assert len(numbers) == expected(count)
    assert len(set(numbers)) == expected(count)


def test_numbered_flow_records_arrive_once_and_the_ledger_balances(collector: Collector) -> None:
    traffic = Traffic(collector.port, COUNT, RATE, EXPORTERS)
    traffic.start()
    traffic.join()
    assert_each_number_once(collector, COUNT)
    wait_for(lambda: all(s["balanced"] for s in collector.node()["shards"]), 5, "balance")
    assert collector.stop() == 0


def test_a_worker_killed_again_and_again_under_load_loses_and_repeats_nothing(
    collector: Collector,
) -> None:
    traffic = Traffic(collector.port, COUNT, RATE, EXPORTERS)
    traffic.start()
    for _ in range(3):
        time.sleep(0.5)
        before = collector.worker_pids()
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda b=before: collector.worker_pids() != b, 10, "another worker")
    traffic.join()
    assert_each_number_once(collector, COUNT)


@pytest.mark.parametrize("collector", [True], indirect=True)
def test_a_collector_killed_under_load_while_its_sockets_are_kept_loses_and_repeats_nothing(
    collector: Collector,
) -> None:
    traffic = Traffic(collector.port, COUNT, RATE, EXPORTERS)
    traffic.start()
    for _ in range(3):
        time.sleep(0.5)
        collector.kill()
        collector.start()
    traffic.join()
    assert_each_number_once(collector, COUNT)


@pytest.mark.parametrize("collector", [True], indirect=True)
def test_a_restart_under_load_loses_and_repeats_nothing(collector: Collector) -> None:
    traffic = Traffic(collector.port, COUNT, RATE, EXPORTERS)
    traffic.start()
    for _ in range(2):
        time.sleep(0.5)
        assert collector.stop() == 0
        collector.start()
    traffic.join()
    assert_each_number_once(collector, COUNT)
