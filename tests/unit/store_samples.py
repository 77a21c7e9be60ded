"""Synthetic segments for the tests of the store."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from appliance.batch import IPV4_MAPPED_PREFIX
from appliance.columns import Column, record_batch
from appliance.schema import ADDRESS
from appliance.store.files import METADATA_KEY, SegmentName, Summary

HOUR = 3600 * 10**9
T0 = 1_700_000_000 * 10**9 // HOUR * HOUR
"""The start of an hour: 2023-11-14 22:00 UTC."""


def address(text: str) -> bytes:
    """16 bytes of an address, IPv4 mapped."""
    a = ip_address(text)
    return a.packed if isinstance(a, IPv6Address) else IPV4_MAPPED_PREFIX + a.packed


def flows(
    rows: int,
    received_ns: int,
    step_ns: int = 1_000_000,
    exporters: tuple[str, ...] = ("10.0.0.1", "10.0.0.2"),
    first_id: int = 0,
    seed: int = 0,
) -> pa.Table:
    """``rows`` flow records, ``step_ns`` apart, of the exporters in turn, each with its own id."""
    rng = np.random.default_rng(seed)
    which = np.arange(rows) % len(exporters)
    packed = np.frombuffer(b"".join(address(e) for e in exporters), np.uint8).reshape(-1, 16)
    hosts = np.frombuffer(b"".join(address(f"192.0.2.{i}") for i in range(50)), np.uint8)
    columns = {
        "received_ns": Column(received_ns + step_ns * np.arange(rows), pa.int64()),
        "exporter": Column(packed[which], ADDRESS),
        "src_addr": Column(hosts.reshape(-1, 16)[rng.integers(0, 50, rows)], ADDRESS),
        "bytes": Column(rng.integers(40, 9000, rows).astype(np.uint64), pa.uint64()),
        "packets": Column(rng.integers(1, 9, rows).astype(np.uint64), pa.uint64()),
        "in_if": Column((which + 1).astype(np.uint32), pa.uint32()),
        "out_if": Column(rng.integers(1, 4, rows).astype(np.uint32), pa.uint32()),
        "flow_id": Column((first_id + np.arange(rows)).astype(np.uint64), pa.uint64()),
    }
    return pa.Table.from_batches([record_batch(columns)])


def summary_of(table: pa.Table) -> Summary:
    """The metadata that a writer of segments would add."""
    texts: dict[str, int] = {}
    for value in table["exporter"].to_pylist():
        a = IPv6Address(value.bytes)
        text = str(a.ipv4_mapped or a)
        texts[text] = texts.get(text, 0) + 1
    received = table["received_ns"].to_numpy()
    return Summary(len(table), int(received.min()), int(received.max()), texts)


def write_hot(
    directory: Path, table: pa.Table, number: int, node: str = "node-a", shard: int = 0
) -> Path:
    """Write ``table`` as a hot segment."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / SegmentName.hot(node, shard, number).relative
    schema = table.schema.with_metadata({METADATA_KEY: summary_of(table).to_json()})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(str(path), schema, options=options) as writer:
        writer.write_table(table.replace_schema_metadata(schema.metadata))
    return path


def ids(paths: list[Path]) -> list[int]:
    """The flow ids of all rows of ``paths``, sorted."""
    found: list[int] = []
    for path in paths:
        if path.suffix == ".parquet":
            table = pq.ParquetFile(path).read(columns=["flow_id"])
        else:
            with pa.memory_map(str(path)) as source:
                table = pa.ipc.open_file(source).read_all().select(["flow_id"])
        found += table["flow_id"].to_pylist()
    return sorted(found)
