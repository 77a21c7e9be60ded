"""Hot segments: what one flush of one shard writes, an immutable Arrow IPC file a table.

A segment is *staged* (written, synced, invisible), then the shard's checkpoint is replaced, then
the segment is *published* by a rename. The checkpoint is the commit: a segment that readers see is
always covered by it, and a crash in between is finished, or forgotten, by :func:`recover`.
"""

from __future__ import annotations

import ipaddress
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from appliance.store.direct import DirectFile
from appliance.store.durable import sync_directory
from appliance.store.files import METADATA_KEY, TABLES, SegmentName, list_hot

STAGED = ".staged"
SMALL_ROWS = 16_384
"""Batches below this are joined, so that a file does not become a list of tiny batches."""
NULLS_PER_ROW = 24
"""Columns that a row may carry without a value because its neighbours have one; beyond this,
batches of different columns get segments of their own."""
_PLAIN = pa.ipc.IpcWriteOptions(compression=None, use_threads=False)
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)


def exporters_of(batch: pa.RecordBatch) -> Counter[str]:
    """Rows of each exporter in ``batch``, by address text (IPv4-mapped ones as IPv4)."""
    storage = batch.column("exporter").storage
    words = np.frombuffer(storage.buffers()[1], np.uint64)
    words = words[storage.offset * 2 : (storage.offset + len(storage)) * 2].reshape(-1, 2)
    if not len(words):
        return Counter()
    # exporters come in runs, so runs are counted, not rows
    new = (words[1:, 1] != words[:-1, 1]) | (words[1:, 0] != words[:-1, 0])
    starts = np.r_[0, np.flatnonzero(new) + 1]
    counts = np.diff(np.r_[starts, len(words)])
    total: Counter[bytes] = Counter()
    for address, count in zip(words[starts], counts.tolist(), strict=True):
        total[address.tobytes()] += count
    return Counter({address_text(a): n for a, n in total.items()})


def address_text(packed: bytes) -> str:
    """The text of a 16-byte address, IPv4-mapped ones as IPv4."""
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


def groups(batches: list[pa.RecordBatch]) -> list[list[pa.RecordBatch]]:
    """Split ``batches`` so that each group can share a schema without too many empty columns."""
    by_schema: dict[tuple[str, ...], list[pa.RecordBatch]] = {}
    for batch in batches:
        if batch.num_rows:
            by_schema.setdefault(tuple(batch.schema.names), []).append(batch)
    result: list[list[pa.RecordBatch]] = []
    columns: list[set[str]] = []
    families = sorted(
        by_schema.items(), key=lambda item: sum(b.num_rows for b in item[1]), reverse=True
    )
    for names, family in families:
        mine = set(names)
        for group, theirs in zip(result, columns, strict=True):
            if len(theirs ^ mine) <= NULLS_PER_ROW:
                group.extend(family)
                theirs |= mine
                break
        else:
            result.append(list(family))
            columns.append(mine)
    return result


def unified(batches: list[pa.RecordBatch]) -> pa.Schema:
    """The schema with all columns of ``batches``, in order of first appearance."""
    fields: dict[str, pa.Field] = {}
    for batch in batches:
        for field in batch.schema:
            fields.setdefault(field.name, field)
    return pa.schema(list(fields.values()))


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """``batch`` with the columns of ``schema``: those that it lacks are null."""
    present = set(batch.schema.names)
    arrays = [
        batch.column(field.name) if field.name in present else nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def nulls(count: int, type_: pa.DataType) -> pa.Array:
    """``count`` nulls of any type, extension types included."""
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, pa.nulls(count, type_.storage_type))
    return pa.nulls(count, type_)


def stage(
    table: Path,
    name: SegmentName,
    batches: list[pa.RecordBatch],
    journal: tuple[int, int],
    compress: bool = True,
    exporters: Mapping[str, int] | None = None,
) -> Path:
    """Write ``batches`` durably and invisibly as segment ``name``; returns the staged path.

    ``journal``: first and end position of the flush, kept in the metadata so that a lost
    checkpoint can be made up for. ``compress``: a third of the bytes for five times the processor
    time. ``exporters``: rows of each exporter, where the caller knows them. Leaves nothing behind
    when it fails (OSError, ``ENOSPC``).
    """
    schema = unified(batches)
    low, high, rows = 2**63 - 1, -(2**63), 0
    for batch in batches:
        received = batch.column("received_ns").to_numpy()
        low, high = min(low, int(received.min())), max(high, int(received.max()))
        rows += batch.num_rows
    if exporters is None or sum(exporters.values()) != rows:
        exporters = sum(map(exporters_of, batches), Counter())
    summary = {
        "rows": rows,
        "min_received_ns": low,
        "max_received_ns": high,
        "exporters": dict(exporters),
        "journal": journal,
    }
    metadata = {METADATA_KEY: json.dumps(summary, separators=(",", ":")).encode()}
    path = table / (name.relative + STAGED)
    try:
        options = _COMPRESSED if compress else _PLAIN
        with (
            DirectFile(path) as file,
            pa.ipc.new_file(file, schema.with_metadata(metadata), options=options) as writer,
        ):
            _write(writer, batches, schema)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _write(
    writer: pa.ipc.RecordBatchFileWriter, batches: list[pa.RecordBatch], schema: pa.Schema
) -> None:
    small: list[pa.RecordBatch] = []
    for batch in batches:
        if batch.num_rows >= SMALL_ROWS:
            writer.write_batch(conform(batch, schema))
            continue
        small.append(conform(batch, schema))
        if sum(b.num_rows for b in small) >= SMALL_ROWS:
            writer.write_table(pa.Table.from_batches(small).combine_chunks())
            small.clear()
    if small:
        writer.write_table(pa.Table.from_batches(small).combine_chunks())


def publish(staged: list[Path]) -> None:
    """Make staged segments visible, and that durable; those already published are left alone."""
    for path in staged:
        if path.exists():
            path.rename(path.with_suffix(""))
    for table in {path.parent for path in staged}:
        sync_directory(table)


def staged_of(store: Path, node: str, shard: int) -> list[Path]:
    """The staged segments of one node and shard in any table."""
    found = []
    for path in store.glob(f"*/*{STAGED}"):
        name = SegmentName.parse(path.with_suffix(""))
        if name is not None and (name.node, name.shard) == (node, shard):
            found.append(path)
    return found


def recover(store: Path, node: str, shard: int, committed: list[Path]) -> int:
    """Finish what a crash interrupted: publish ``committed``, drop what no checkpoint covers.

    Returns how many staged segments were dropped; the journal still has their datagrams.
    """
    publish(committed)
    dropped = staged_of(store, node, shard)
    for path in dropped:
        path.unlink()
    return len(dropped)


def reach(store: Path, node: str, shard: int) -> tuple[int, list[Path]]:
    """How far the published segments say that the journal is stored, when no checkpoint does.

    Also the staged ones that must be published, for being of a flush of which one already is. Other
    staged segments may belong to no checkpoint; their datagrams are still in the journal, which is
    trimmed only after all segments of a flush are published.
    """
    end = 0
    for table in TABLES:
        for name in list_hot(store / table):
            if (name.node, name.shard) == (node, shard):
                end = max(end, _journal_end(store / table / name.relative))
    return end, [p for p in staged_of(store, node, shard) if 0 < _journal_end(p) <= end]


def _journal_end(path: Path) -> int:
    """The journal position after the last datagram of a segment; 0 for one that is torn."""
    try:
        with pa.memory_map(str(path)) as source:
            metadata = pa.ipc.open_file(source).schema.metadata or {}
        return int(json.loads(metadata[METADATA_KEY])["journal"][1])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return 0
