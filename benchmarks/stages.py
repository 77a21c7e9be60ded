"""What the stages behind the journal cost by themselves: decoding, and writing segments."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from appliance.batch import IPV4_MAPPED_PREFIX, DatagramBatch
from appliance.decode import Decoder
from appliance.decode.elements import Registry
from appliance.store import segment
from appliance.store.files import SegmentName
from benchmarks.compare import EXPORTERS
from benchmarks.generate import FIRST_ADDRESS, RECORDS, Generator, Load
from benchmarks.report import Table

CHUNK = 2048
"""Datagrams a batch, as in the worker."""
ROUNDS = 5


def batches(load: Load) -> list[DatagramBatch]:
    """``load`` as the journal would hand it to the decoder."""
    n = len(load)
    address = np.empty((n, 16), np.uint8)
    address[:, :12] = np.frombuffer(IPV4_MAPPED_PREFIX, np.uint8)
    address[:, 12:] = (FIRST_ADDRESS + load.exporter).astype(">u4").view(np.uint8).reshape(n, 4)
    now = np.full(n, time.time_ns())
    whole = DatagramBatch(
        load.buffer, load.offset, load.length, now, address, np.full(n, 2055, np.uint16)
    )
    return [whole.select(slice(at, at + CHUNK)) for at in range(0, n, CHUNK)]


def measure(datagrams: int) -> Table:
    """CPU time of this process a flow, the best of some rounds."""
    table = Table(
        "Stages by themselves, CPU µs a flow",
        ["protocol", "decoding", "plain segment", "compressed segment"],
    )
    for protocol in RECORDS:
        generator = Generator(protocol, EXPORTERS)
        decoder = Decoder(Registry.load())
        for batch in batches(generator.templates()):
            decoder.decode(batch, time.time_ns())
        load = generator.block(datagrams)
        costs: list[list[float]] = [[], [], []]
        for _ in range(ROUNDS):
            begun = time.process_time()
            flows = [f for b in batches(load) for f in decoder.decode(b, time.time_ns()).flows]
            costs[0].append(time.process_time() - begun)
            rows = sum(f.num_rows for f in flows)
            if rows != load.flows:
                raise RuntimeError(f"{protocol}: {rows} flows decoded of {load.flows}")
            costs[1].append(_stage(flows, False))
            costs[2].append(_stage(flows, True))
        table.rows.append([protocol, *(f"{min(c) / load.flows * 1e6:.3f}" for c in costs)])
    table.notes.append(f"batches of {CHUNK} datagrams, one thread; best of {ROUNDS}")
    return table


def _stage(flows: list[pa.RecordBatch], compress: bool) -> float:
    """CPU seconds of writing ``flows`` as one segment (or as few as their columns allow)."""
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name:
        begun = time.process_time()
        for number, group in enumerate(segment.groups(flows)):
            path = SegmentName.hot("bench", 0, number)
            segment.stage(Path(name), path, group, (0, 0), compress)
        return time.process_time() - begun
