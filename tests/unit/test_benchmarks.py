"""The benchmarks: their datagrams are valid, and nothing that they start is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from appliance.decode import Decoder, Status
from appliance.decode.elements import Registry
from benchmarks.generate import RECORDS, Generator, layouts
from benchmarks.process import CollectorError, free_port, running
from benchmarks.report import Table, parse_count
from benchmarks.send import Sender
from benchmarks.stages import batches

DATAGRAMS = 50


@pytest.mark.parametrize("protocol", list(RECORDS))
def test_generated_datagrams_decode_without_an_error(protocol: str):
    generator = Generator(protocol, exporters=3)
    decoder = Decoder(Registry.load())
    for batch in batches(generator.templates()):
        decoder.decode(batch, time.time_ns())
    for _ in range(2):
        load = generator.block(DATAGRAMS)
        (batch,) = batches(load)
        decoded = decoder.decode(batch, time.time_ns())
        assert sum(f.num_rows for f in decoded.flows) == load.flows == DATAGRAMS * RECORDS[protocol]
        assert not decoded.errors
        assert (decoded.status == Status.DECODED).all()


@pytest.mark.parametrize(
    ("protocol", "offset", "unit"),
    [("v5", 16, 30), ("v9", 12, 1), ("ipfix", 8, 24), ("sflow", 16, 1)],
)
def test_sequence_numbers_of_each_exporter_go_on_without_a_gap(
    protocol: str, offset: int, unit: int
):
    generator = Generator(protocol, exporters=3)
    loads = [generator.templates(), generator.block(DATAGRAMS), generator.block(DATAGRAMS)]
    seen: dict[int, list[int]] = {}
    for load in loads:
        for at, exporter in zip(load.offset + offset, load.exporter, strict=True):
            number = int.from_bytes(load.buffer[at : at + 4].tobytes(), "big")
            seen.setdefault(int(exporter), []).append(number)
    for numbers in seen.values():
        if protocol == "ipfix":
            numbers.pop(0)  # the template's message counts no records
        assert numbers == list(range(0, len(numbers) * unit, unit))


def test_the_templates_of_many_are_different():
    assert len(set(layouts(20))) == 20


def test_each_exporter_sends_from_its_own_address_no_faster_than_asked():
    generator = Generator("v9", exporters=3)
    load = generator.block(200)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sender = Sender(receiver.getsockname()[1], rate=2000, exporters=3)
        sender.send(load)
        sender.close()
        got = [receiver.recvfrom(2048) for _ in range(sender.datagrams)]
    for (payload, (address, _)), at, length, exporter in zip(
        got, load.offset, load.length, load.exporter, strict=True
    ):
        assert payload == load.buffer[at : at + length].tobytes()
        assert address == f"127.16.0.{exporter + 1}"
    assert sender.seconds > (200 - 2 * 32) / 2000


LISTENER = """
import os, signal, socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if os.fork() == 0:
    os.setsid()
    end = time.process_time() + 0.3
    while time.process_time() < end: pass
    sock.bind(("127.0.0.1", int(sys.argv[1])))
    open(sys.argv[2], "w").write(str(os.getpid()))
    time.sleep(60)
time.sleep(60)
"""


def test_a_collector_and_its_children_are_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("benchmarks.process.STOP_SECONDS", 0.5)
    port, child = free_port(), tmp_path / "pid"
    command = [sys.executable, "-c", LISTENER, str(port), str(child)]
    with (
        contextlib.suppress(ZeroDivisionError),
        running(command, port, tmp_path / "log", signal.SIGTERM) as collector,
    ):
        assert collector.cpu() < 0.2  # what came before it was ready does not count
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(int(child.read_text()), 0)


def test_a_collector_that_ends_at_once_is_an_error_with_what_it_said(tmp_path: Path):
    command = [sys.executable, "-c", "print('no such option')"]
    with (
        pytest.raises(CollectorError, match="no such option"),
        running(command, free_port(), tmp_path / "log"),
    ):
        pass


def test_a_table_is_the_same_in_text_and_markdown():
    table = Table("Sizes", ["store", "bytes"], [["ours", "20.9"]], ["of one run"])
    assert table.text() == "Sizes\n  store  bytes\n  ours    20.9\n  of one run\n"
    assert table.markdown().splitlines()[2:5] == [
        "| store | bytes |",
        "| --- | ---: |",
        "| ours | 20.9 |",
    ]


def test_counts_have_units():
    assert [parse_count(text) for text in ("200k", "1.5M", "7")] == [200_000, 1_500_000, 7]
    for text in ("", "0", "-1k", "many"):
        with pytest.raises(ValueError, match=r".*"):
            parse_count(text)


def test_a_load_is_a_function_of_its_seed():
    first, again = (Generator("sflow", seed=5).block(10) for _ in range(2))
    assert np.array_equal(first.buffer, again.buffer)
