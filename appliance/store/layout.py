"""How packed files are laid out: sorted rows, row groups, encodings; all of it measured.

Figures of five million synthetic flows (23 columns, 16 exporters) on one core, DuckDB with one
thread, and what follows from them:

- *Sort order.* By exporter, then as they came: a top-10 of one exporter takes 20 ms, not 88 ms, as
  row groups are skipped; by source address below it, files grow by 6 %.
- *Row groups.* 262,144 rows: 18.5 B a row; 1 million rows 16.9 B, but twice the time for one
  exporter; 122,880 rows 20.3 B.
- *Compression.* zstd 1: 19.2 B. Level 3 costs 10 % more time for 0.3 % of size, lz4 saves 14 % of
  the time for 17 % of size.
- *Encodings.* Dictionaries for what repeats; byte-stream split for counters, interfaces and ports:
  half the time of a dictionary and no larger; plain for what hardly changes within an exporter.
  DELTA_BINARY_PACKED is larger and slower than byte-stream split for every column here.
- *Nulls.* A column without nulls is declared so: 1 ns a value. Statistics only where they prune.
- *Bloom filters* on the two addresses: 0.26 B a row; a search for an address that is not there
  takes 1.7 ms instead of 10.8 ms.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from appliance.store.segment import address_text, nulls

ROW_GROUP = 262_144
BLOOM = ("src_addr", "dst_addr")
BLOOM_ADDRESSES = 32_768
"""Distinct addresses of a row group that the filters are sized for (1 % false positives)."""
PRUNING = ("received_ns", "minute_ns", "exporter", "start_ns", "end_ns")
"""Columns with statistics."""

_PLAIN = frozenset(
    (
        "received_ns",
        "minute_ns",
        "export_ns",
        "exporter_port",
        "export_protocol",
        "observation_domain",
        "template_id",
        "sampling_rate",
        "sampling_source",
        "sampling_interval",
        "sampling_mode",
        "ip_version",
        "engine_type",
        "engine_id",
        "agent",
        "kind",
        "from_frame",
    )
)
_SPLIT = frozenset(
    (
        "bytes",
        "packets",
        "in_if",
        "out_if",
        "src_port",
        "dst_port",
        "post_bytes",
        "post_packets",
        "rev_bytes",
        "rev_packets",
        "flow_id",
        "sequence",
        "sample_pool",
        "frame_length",
        "header_length",
        "ip_len",
        "post_nat_src_port",
        "post_nat_dst_port",
        "flows",
        "scaled_bytes",
        "scaled_packets",
        "unscaled_flows",
        "unscaled_bytes",
    )
)


@dataclass(frozen=True, slots=True)
class Layout:
    """How one kind of table is cut into files."""

    time: str
    """The column of time, int64 ns since the epoch."""
    part_ns: int
    """The span of time of a file."""
    format: str
    """Of a file's ``part``, for strftime (UTC)."""

    def part(self, number: int) -> str:
        """The name of part ``number``: time divided by ``part_ns``."""
        return time.strftime(self.format, time.gmtime(number * self.part_ns // 10**9))


RECORDS = Layout("received_ns", 3600 * 10**9, "%Y%m%d%H")
ROLLUP = Layout("minute_ns", 86400 * 10**9, "%Y%m%d")


@dataclass(frozen=True, slots=True)
class Sorted:
    """The rows of one part, in their order on disk."""

    part: str
    rows: pa.Table
    min_ns: int
    max_ns: int
    exporters: dict[str, int]
    """Rows of each exporter, by address text."""
    parts: tuple[str, ...]
    """All parts that the rows were cut into."""


def unified(schemas: list[pa.Schema]) -> pa.Schema | None:
    """The union of columns, in order of first appearance; None if a column has two types."""
    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            known = fields.setdefault(field.name, field)
            if known.type != field.type:
                return None
    return pa.schema(list(fields.values()))


def row_bytes(schema: pa.Schema) -> int:
    """An estimate of the memory of a row."""
    total = 0
    for field in schema:
        type_ = (
            field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
        )
        try:
            total += (type_.bit_width + 7) // 8
        except ValueError:
            total += 32  # strings, lists, maps
    return total


def arrange(layout: Layout, batches: list[pa.RecordBatch]) -> Iterator[Sorted]:
    """The rows of ``batches`` (emptied), part by part, each sorted by exporter.

    Rows of one exporter keep their order, which is nearly that of time. Works column by column, so
    that memory holds the rows twice at most.
    """
    schema = unified([b.schema for b in batches])
    assert schema is not None, "the plan keeps columns of different types apart"
    times: NDArray[np.int64] = _column(batches, schema.field(layout.time)).to_numpy()
    order, runs, texts = _by_exporter(_column(batches, schema.field("exporter")))
    parts = times // layout.part_ns
    low, high = int(parts.min()), int(parts.max())
    if low == high:
        picks = {low: order}
    else:
        sorted_parts = parts[order]
        picks = {int(p): order[sorted_parts == p] for p in np.unique(parts)}
    indices = {number: pa.array(pick) for number, pick in picks.items()}
    columns: dict[int, list[pa.Array]] = {number: [] for number in picks}
    for field in schema:
        whole = _column(batches, field)
        for number, index in indices.items():
            columns[number].append(pc.take(whole, index, boundscheck=False))
    batches.clear()
    rank = np.repeat(np.arange(len(texts)), runs)
    for number, pick in picks.items():
        mine = times[pick]
        counts = runs
        if low != high:
            counts = np.bincount(rank[sorted_parts == number], minlength=len(texts))
        arrays = columns.pop(number)
        fields = [
            pa.field(f.name, f.type, nullable=a.null_count > 0)
            for f, a in zip(schema, arrays, strict=True)
        ]
        yield Sorted(
            layout.part(number),
            pa.Table.from_arrays(arrays, schema=pa.schema(fields)),
            int(mine.min()),
            int(mine.max()),
            {text: n for text, n in zip(texts, counts.tolist(), strict=True) if n},
            tuple(layout.part(n) for n in picks),
        )


def _column(batches: list[pa.RecordBatch], field: pa.Field) -> pa.Array:
    """Column ``field`` of all ``batches`` as one array; null where a batch lacks it."""
    return pa.concat_arrays(
        [
            b.column(field.name) if field.name in b.schema.names else nulls(b.num_rows, field.type)
            for b in batches
        ]
    )


def _by_exporter(exporter: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.int64], list[str]]:
    """``int32 (n,)`` indices that sort by address and keep the order of equal ones; rows of each
    address, and its text, in order of the addresses.

    Exporters come in runs (at least the records of a datagram), so runs are sorted, not rows.
    """
    storage = exporter.storage
    n = len(storage)
    words = np.frombuffer(storage.buffers()[1], np.uint64).reshape(-1, 2)
    words = words[storage.offset : storage.offset + n]
    changes = (words[1:, 1] != words[:-1, 1]) | (words[1:, 0] != words[:-1, 0])
    starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
    lengths = np.diff(starts, append=n)
    encoded = storage.take(pa.array(starts)).dictionary_encode()
    values: list[bytes] = encoded.dictionary.to_pylist()
    by_value = sorted(range(len(values)), key=values.__getitem__)
    rank = np.empty(len(values), np.uint32)
    rank[by_value] = np.arange(len(values))
    code = rank[encoded.indices.to_numpy()]
    if len(values) <= 1 << 16:
        code = code.astype(np.uint16)  # which NumPy sorts by radix
    run_order = np.argsort(code, kind="stable")
    lengths_sorted = lengths[run_order]
    begin = np.cumsum(lengths_sorted) - lengths_sorted
    order = np.arange(n) + np.repeat(starts[run_order] - begin, lengths_sorted)
    counts = np.bincount(code, weights=lengths, minlength=len(values)).astype(np.int64)
    return order.astype(np.int32), counts, [address_text(values[i]) for i in by_value]


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """Keyword arguments of ``pyarrow.parquet.ParquetWriter`` for ``schema``."""
    dictionary: list[str] = []
    split: dict[str, str] = {}
    for field in schema:
        if field.name in _SPLIT:
            split[field.name] = "BYTE_STREAM_SPLIT"
        elif field.name not in _PLAIN:
            dictionary.append(_leaf(field))
            if pa.types.is_map(field.type):
                dictionary.append(f"{field.name}.key_value.value")
    bloom = {"ndv": BLOOM_ADDRESSES, "fpp": 0.01}
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": dictionary,
        "column_encoding": split,
        "write_statistics": [n for n in PRUNING if n in schema.names],
        "bloom_filter_options": {n: bloom for n in BLOOM if n in schema.names} or None,
        "write_page_checksum": True,
    }


def _leaf(field: pa.Field) -> str:
    """The path of the (first) leaf column of ``field`` in Parquet."""
    if pa.types.is_map(field.type):
        return f"{field.name}.key_value.key"
    if pa.types.is_list(field.type):
        return f"{field.name}.list.element"
    return str(field.name)
