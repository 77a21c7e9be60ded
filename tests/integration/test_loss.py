"""What never arrives: the kernel, the exporters' numbers and the ledger say the same."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.state import StateReader
from tests.integration.harness import RECORDS, Collector, datagram, wait_for

EXPORTERS = ("127.9.0.1", "127.9.1.1")
BURST = 1500


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    collector = Collector(tmp_path, receive="shards = 4\nreceive_buffer = 65536")
    collector.start()
    yield collector
    collector.end()


def test_what_the_kernel_drops_is_lost_by_the_exporters_numbers(collector: Collector) -> None:
    reader = StateReader(collector.data)

    def total(name: str) -> int:
        return sum(reader.ledger().table[name].to_pylist())

    sent = 0
    sockets = []
    for exporter in EXPORTERS:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((exporter, 0))
        sock.connect(("127.0.0.1", collector.port))
        sockets.append(sock)

    def send(first: int, count: int) -> None:
        nonlocal sent
        for number in range(first, first + count):
            for sock in sockets:
                sock.send(datagram(number * RECORDS))
                sent += 1

    send(0, 1)
    wait_for(lambda: total("datagrams_received") == len(EXPORTERS), 10, "the first datagrams")
    (worker,) = collector.worker_pids()
    os.kill(worker, signal.SIGSTOP)
    send(1, BURST)
    os.kill(worker, signal.SIGCONT)
    arrived = total("datagrams_received")
    wait_for(lambda: total("datagrams_received") > arrived, 10, "what was not dropped")
    # only numbers beyond the gap tell how long it is; one alone could be a stray
    send(1 + BURST, 2)
    wait_for(lambda: total("sequence_lost") > 0, 10, "the gap")
    wait_for(
        lambda: sent == total("datagrams_received") + total("sequence_lost") // RECORDS,
        10,
        "every datagram received or lost",
    )
    lost = total("sequence_lost")
    assert lost >= BURST * RECORDS
    assert total("records_stored") + lost == sent * RECORDS
    wait_for(
        lambda: collector.node()["listeners"][0]["kernel_dropped"] == lost // RECORDS,
        5,
        f"{lost // RECORDS} dropped by the kernel",
    )
    for name in ("duplicates", "reordered", "restarts"):
        assert total(f"sequence_{name}") == 0
    for sock in sockets:
        sock.close()
