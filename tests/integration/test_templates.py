"""Templates, sampling rates and held data outlive whatever ends the process; TCP sessions end."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.state import StateReader
from appliance.store.files import visible
from tests.builders import ipfix, options_set, record, set_of, template_set, v9
from tests.integration.harness import Collector, free_port, read, wait_for

FIELDS = [(0, 8, 4), (0, 12, 4), (0, 1, 4), (0, 2, 4)]
RATE_SCOPE, RATE_FIELDS = [(0, 1, 4)], [(0, 34, 4)]


def flow(number: int) -> bytes:
    values = [bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), struct.pack(">I", number)]
    return record(FIELDS, [*values, struct.pack(">I", 1)])


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    collector = Collector(tmp_path)
    yield collector
    collector.end()


@pytest.fixture
def exporter(collector: Collector) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", collector.port))
        yield sock


def rows(collector: Collector) -> list[dict[str, object]]:
    found = []
    for path in visible(collector.data / "store" / "flows"):
        found += read(path).to_pylist()
    return sorted(found, key=lambda row: row["bytes"])


def stored(collector: Collector) -> list[int]:
    return [int(str(row["bytes"])) for row in rows(collector)]


def kill_worker(collector: Collector) -> None:
    (before,) = collector.worker_pids()
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: collector.worker_pids() not in ([before], []), 10, "another worker")


def test_templates_and_sampling_rates_sent_once_serve_after_every_kind_of_end(
    collector: Collector, exporter: socket.socket
) -> None:
    collector.start()
    rate = record([*RATE_SCOPE, *RATE_FIELDS], [bytes(4), struct.pack(">I", 1000)])
    exporter.send(
        v9(
            [
                template_set(256, FIELDS, False),
                options_set(257, RATE_SCOPE, RATE_FIELDS, False),
                set_of(257, rate),
            ],
            domain=5,
        )
    )
    number = 0

    def next_flow() -> None:
        nonlocal number
        number += 1
        exporter.send(v9([set_of(256, flow(number))], domain=5, sequence=number))
        wait_for(lambda: stored(collector) == list(range(1, number + 1)), 10, f"flow {number}")

    next_flow()
    kill_worker(collector)
    next_flow()
    collector.stop()
    collector.start()
    next_flow()
    collector.kill()
    collector.start()
    next_flow()
    assert {(r["sampling_rate"], r["sampling_source"]) for r in rows(collector)} == {(1000, 2)}


def test_data_before_its_template_is_decoded_when_it_comes_even_after_a_kill(
    collector: Collector, exporter: socket.socket
) -> None:
    collector.start()
    exporter.send(v9([set_of(256, flow(1))], sequence=1))
    state = StateReader(collector.data)

    def held() -> int:
        return sum(state.ledger().table["datagrams_held"].to_pylist())

    wait_for(lambda: held() == 1, 10, "a datagram held")
    collector.kill()
    collector.start()
    assert held() == 1
    exporter.send(v9([template_set(256, FIELDS, False)], sequence=2))
    wait_for(lambda: stored(collector) == [1], 10, "the held flow stored")
    wait_for(lambda: held() == 0, 10, "nothing held")
    assert state.ledger().imbalances() == []


def test_a_tcp_sessions_templates_are_its_own_and_end_with_it(collector: Collector) -> None:
    port = free_port(socket.SOCK_STREAM)
    collector.write_config(
        f'[[listener]]\ntransport = "tcp"\naddress = "127.0.0.1"\nport = {port}\n'
    )
    collector.start()
    first = socket.create_connection(("127.0.0.1", port))
    first.sendall(ipfix([template_set(256, FIELDS, True), set_of(256, flow(1))]))
    with socket.create_connection(("127.0.0.1", port)) as second:
        other = [(0, 1, 4)]
        second.sendall(ipfix([template_set(256, other, True), set_of(256, struct.pack(">I", 2))]))
        wait_for(lambda: stored(collector) == [1, 2], 10, "both")
        first.sendall(ipfix([set_of(256, flow(3))], sequence=1))
        wait_for(lambda: stored(collector) == [1, 2, 3], 10, "the first session's own template")
    first.close()
    wait_for(lambda: StateReader(collector.data).templates() == ([], 0), 10, "templates forgotten")
