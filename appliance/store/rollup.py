"""Minute roll-ups: traffic by exporter and interface, kept far longer than flow records.

``store/rollup`` is a table like the others (ranges, manifest, merging), in files of a day. The rows
of a range of flow records are rolled up once, while they are being packed, and committed under the
same range of numbers. Which flows are not in the roll-ups yet is therefore known by name, and
:func:`sources` tells a reader both halves of one consistent picture. The records of drills are left
out.

Columns: ``minute_ns`` (int64, start of the minute of ``received_ns``, UTC), ``exporter`` (uuid),
``in_if``, ``out_if`` (uint32, null: not sent), ``direction`` (uint8, null: not sent), then sums:
``flows``, ``bytes``, ``packets`` (uint64, as sent), ``scaled_bytes``, ``scaled_packets`` (double:
times the sampling rate; as sent where it is unknown), ``unscaled_flows``, ``unscaled_bytes``
(uint64: the part whose sampling rate is unknown). A key can have several rows: sum them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from appliance.schema import ADDRESS, DRILL_DOMAINS
from appliance.store import manifest as manifests
from appliance.store.compact import read, write_range
from appliance.store.durable import locked, store_lock
from appliance.store.files import SegmentName, StoredFile, snapshot
from appliance.store.layout import ROLLUP
from appliance.store.manifest import Manifest, Range

FLOWS = "flows"
TABLE = "rollup"
MINUTE_NS = 60 * 10**9
_ATTEMPTS = 100
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFF_FFFF)
_MOST = np.uint64(2**64 - 1)

SCHEMA = pa.schema(
    [
        ("minute_ns", pa.int64()),
        ("exporter", ADDRESS),
        ("in_if", pa.uint32()),
        ("out_if", pa.uint32()),
        ("direction", pa.uint8()),
        ("flows", pa.uint64()),
        ("bytes", pa.uint64()),
        ("packets", pa.uint64()),
        ("scaled_bytes", pa.float64()),
        ("scaled_packets", pa.float64()),
        ("unscaled_flows", pa.uint64()),
        ("unscaled_bytes", pa.uint64()),
    ]
)
"""Columns of the roll-ups."""

_KEYS = ("exporter", "in_if", "out_if", "direction")
_NOTHING = pa.RecordBatch.from_pylist([], schema=SCHEMA)


def roll_up(rows: pa.Table) -> pa.RecordBatch:
    """The roll-up of flow records ``rows``: one row a (minute, exporter, in_if, out_if, direction).

    Columns that ``rows`` lack count as null, or nothing.
    """
    rows = _of_users(rows)
    n = len(rows)
    if not n:
        return _NOTHING
    minutes = rows["received_ns"].to_numpy() // MINUTE_NS
    key = minutes - minutes.min()
    size = int(key.max()) + 1
    for name in _KEYS:
        if name not in rows.schema.names:
            continue
        code, count = _codes(rows[name].combine_chunks())
        if count > 1:
            if size * count >= 2**62:
                key, size = _dense(key)
            key = key * count + code
            size *= count
    group, groups = (key, size) if size <= n else _dense(key)
    flows = np.bincount(group, minlength=groups)
    used = np.flatnonzero(flows)
    # any row of a group stands for its key: here the last
    row = np.zeros(groups, np.int64)
    row[group] = np.arange(n)
    row = row[used]

    raw_bytes = _numbers(rows, "bytes")
    raw_packets = _numbers(rows, "packets")
    rate = _numbers(rows, "sampling_rate")
    known = (rate > 0) & (_numbers(rows, "sampling_source") > 0)
    total_bytes = _sums(group, groups, raw_bytes)
    total_packets = _sums(group, groups, raw_packets)
    if known.any():
        factor = np.where(known, rate, 1).astype(np.float64)
        scaled_bytes = np.bincount(group, raw_bytes * factor, groups)
        scaled_packets = np.bincount(group, raw_packets * factor, groups)
        unscaled_flows = np.bincount(group, ~known, groups)
        unscaled_bytes = _sums(group, groups, np.where(known, np.uint64(0), raw_bytes))
    else:
        scaled_bytes = total_bytes.astype(np.float64)
        scaled_packets = total_packets.astype(np.float64)
        unscaled_flows, unscaled_bytes = flows, total_bytes
    sums: dict[str, NDArray[Any]] = {
        "flows": flows,
        "bytes": total_bytes,
        "packets": total_packets,
        "scaled_bytes": scaled_bytes,
        "scaled_packets": scaled_packets,
        "unscaled_flows": unscaled_flows,
        "unscaled_bytes": unscaled_bytes,
    }
    arrays = [pa.array(minutes[row] * MINUTE_NS)]
    for field in list(SCHEMA)[1:]:
        if field.name in sums:
            values = sums[field.name][used].astype(field.type.to_pandas_dtype())
            arrays.append(pa.array(values, field.type))
        elif field.name in rows.schema.names:
            arrays.append(rows[field.name].take(pa.array(row)).combine_chunks())
        else:
            arrays.append(pa.nulls(len(used), field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _of_users(rows: pa.Table) -> pa.Table:
    """Without the records of drills; a table that has none is looked at, and not copied."""
    if "observation_domain" not in rows.schema.names:
        return rows
    domains = rows["observation_domain"]
    first, last = DRILL_DOMAINS[0], DRILL_DOMAINS[-1]
    if not len(rows) or (pc.max(domains).as_py() or 0) < first:
        return rows
    of_drill = pc.and_(pc.greater_equal(domains, first), pc.less_equal(domains, last))
    return rows.filter(pc.invert(pc.fill_null(of_drill, False)))


def _codes(array: pa.Array) -> tuple[NDArray[np.int64], int]:
    """``(n,)`` dense numbers of the values of ``array``, null being one more; how many."""
    if isinstance(array, pa.ExtensionArray):
        # sorted by exporter: a run of equal addresses is looked up once
        words = np.frombuffer(array.storage.buffers()[1], np.uint64).reshape(-1, 2)
        words = words[array.offset : array.offset + len(array)]
        changes = (words[1:, 1] != words[:-1, 1]) | (words[1:, 0] != words[:-1, 0])
        starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
        encoded = array.storage.take(pa.array(starts)).dictionary_encode()
        lengths = np.diff(starts, append=len(array))
        return np.repeat(encoded.indices.to_numpy(), lengths), len(encoded.dictionary)
    encoded = array.dictionary_encode()
    count = len(encoded.dictionary)
    if encoded.null_count:
        return encoded.indices.fill_null(count).to_numpy(), count + 1
    return encoded.indices.to_numpy(), count


def _dense(key: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    encoded = pa.array(key).dictionary_encode()
    return encoded.indices.to_numpy(), len(encoded.dictionary)


def _numbers(rows: pa.Table, name: str) -> NDArray[np.uint64]:
    """Column ``name`` as ``uint64 (n,)``, 0 for null."""
    if name not in rows.schema.names:
        return np.zeros(len(rows), np.uint64)
    column = rows[name].combine_chunks()
    if column.null_count:
        column = column.fill_null(0)
    values: NDArray[np.uint64] = column.to_numpy().astype(np.uint64, copy=False)
    return values


def _sums(group: NDArray[np.int64], groups: int, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Exact sums of ``values`` by group, 2^64 - 1 where they do not fit.

    ``bincount`` adds doubles, which are exact to 2^53: halves of 32 bits of 2^21 rows.
    """
    if int(values.max(initial=0)) <= _LOW:
        return np.bincount(group, values, groups).astype(np.uint64)
    low = np.bincount(group, values & _LOW, groups).astype(np.uint64)
    high = np.bincount(group, values >> _HALF, groups)
    high += (low >> _HALF).astype(np.float64)
    fits = high < 2**32
    total: NDArray[np.uint64] = np.where(fits, high, 0).astype(np.uint64) << _HALF | low & _LOW
    total[~fits] = _MOST
    return total


def commit(store: Path, of: Range, batches: list[pa.RecordBatch], now_ns: int) -> None:
    """Write ``batches``, the roll-up of range ``of`` of the flows, and make it visible."""
    table = store / TABLE
    table.mkdir(exist_ok=True)
    key = (of.node, of.shard, of.first, of.last)
    # without rows it still says that there is nothing left to roll up
    made = Range(*key, now_ns, ())
    if batches:
        made = write_range(table, ROLLUP, key, list(batches), now_ns)
    with locked(store_lock(store)):
        manifests.commit(table, (), [made])


def is_rolled_up(rollups: Manifest, of: Range | SegmentName) -> bool:
    """Whether the rows of a range or a segment of the flows are in ``rollups``.

    Packed ranges are merged when all of them are rolled up, and roll-ups when nothing between them
    is not. So a range is in the roll-ups whole or not at all, and one common number tells.
    """
    return rollups.touches(of.node, of.shard, of.first, of.last)


def unrolled(store: Path) -> list[SegmentName]:
    """Segments of the flows, hot or packed, whose rows are not in the roll-ups yet."""
    rollups = manifests.load(store / TABLE)
    return [f.name for f in snapshot(store / FLOWS) if not is_rolled_up(rollups, f.name)]


def catch_up(store: Path, now_ns: int) -> int:
    """Roll up packed ranges that are not yet (a crash came between); returns how many."""
    rollups = manifests.load(store / TABLE)
    missing = [r for r in manifests.load(store / FLOWS).ranges if not is_rolled_up(rollups, r)]
    if not missing:
        return 0
    files: dict[tuple[str, int, int], list[StoredFile]] = {}
    for file in snapshot(store / FLOWS):
        if file.name.hour is not None:
            files.setdefault((file.name.node, file.name.shard, file.name.first), []).append(file)
    for r in missing:
        batches = []
        for file in files.get((r.node, r.shard, r.first), []):
            batches.append(roll_up(pa.Table.from_batches(read(file))))
        commit(store, r, batches, now_ns)
    return len(missing)


@dataclass(frozen=True, slots=True)
class Sources:
    """What to read for roll-ups of a time span; each flow record is in exactly one of the two."""

    rollups: list[Path]
    """Files with the columns of :data:`SCHEMA`."""
    flows: list[Path]
    """Files of flow records that are not rolled up yet: the tail, of some minutes."""


def sources(store: Path, since_ns: int | None = None, until_ns: int | None = None) -> Sources:
    """The files that hold the traffic received from ``since_ns`` until ``until_ns``."""
    if since_ns is not None:
        since_ns = since_ns // MINUTE_NS * MINUTE_NS
    for _ in range(_ATTEMPTS):
        before = manifests.load(store / TABLE)
        rollups = [f.path for f in snapshot(store / TABLE, since_ns, until_ns)]
        tail = [
            f.path
            for f in snapshot(store / FLOWS, since_ns, until_ns)
            if not is_rolled_up(before, f.name)
        ]
        if manifests.load(store / TABLE) is before:
            break
    return Sources(rollups, tail)
