"""NetFlow v1, v5 and v7 (and NetStream v5): records of one fixed layout at a fixed stride.

Layouts: Cisco, "NetFlow Export Datagram Format", tables B-1 to B-6. All records of all datagrams
of one version are decoded by one gather and one pass a column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from appliance.batch import U8
from appliance.columns import Columns
from appliance.decode import gather
from appliance.decode.context import DecodeContext, Status
from appliance.decode.sources import SourceTable
from appliance.schema import ADDRESS, CANONICAL, ExportProtocol, SamplingSource

I64 = NDArray[np.int64]

BLOCK = 8192
"""Records decoded at once: 400 KiB."""
MODE_BITS = 14
"""The v5 header's sampling field: two bits of mode above 14 bits of interval."""

_COMMON_FIELDS: dict[str, tuple[int, str]] = {
    "src_addr": (0, "V4"),
    "dst_addr": (4, "V4"),
    "next_hop": (8, "V4"),
    "in_if": (12, ">u2"),
    "out_if": (14, ">u2"),
    "packets": (16, ">u4"),
    "bytes": (20, ">u4"),
    "start_uptime_ms": (24, ">u4"),
    "end_uptime_ms": (28, ">u4"),
    "src_port": (32, ">u2"),
    "dst_port": (34, ">u2"),
}
_V1_FIELDS = _COMMON_FIELDS | {
    "protocol": (38, "u1"),
    "tos": (39, "u1"),
    "tcp_flags": (40, "u1"),
}
_V5_FIELDS = _COMMON_FIELDS | {
    "tcp_flags": (37, "u1"),
    "protocol": (38, "u1"),
    "tos": (39, "u1"),
    "src_as": (40, ">u2"),
    "dst_as": (42, ">u2"),
    "src_mask": (44, "u1"),
    "dst_mask": (45, "u1"),
}
_V7_FIELDS = _V5_FIELDS | {"router_sc": (48, "V4")}

_V7_TYPES: dict[str, pa.DataType] = {"router_sc": ADDRESS}
"""Types of the columns that only v7 has: the router by-passed by the switch's short cut."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a version keeps things: sizes in octets, fields as NumPy reads them."""

    version: ExportProtocol
    header: int
    record: int
    dtype: np.dtype[Any]

    @classmethod
    def of(
        cls, version: ExportProtocol, header: int, record: int, fields: dict[str, tuple[int, str]]
    ) -> Layout:
        """A layout of ``fields``: offset in the record, and format, by column name."""
        dtype = np.dtype(
            {
                "names": list(fields),
                "offsets": [offset for offset, _ in fields.values()],
                "formats": [format_ for _, format_ in fields.values()],
                "itemsize": record,
            }
        )
        return cls(version, header, record, dtype)


# The manual's v1 record has 52 octets, what softflowd and fprobe send has 48; the first 41 agree.
V1 = Layout.of(ExportProtocol.NETFLOW_V1, 16, 52, _V1_FIELDS)
V1_SHORT = Layout.of(ExportProtocol.NETFLOW_V1, 16, 48, _V1_FIELDS)
V5 = Layout.of(ExportProtocol.NETFLOW_V5, 24, 48, _V5_FIELDS)
V7 = Layout.of(ExportProtocol.NETFLOW_V7, 24, 52, _V7_FIELDS)


def decode_v1(ctx: DecodeContext, index: I64, sources: SourceTable) -> None:
    """Decode the NetFlow v1 datagrams ``index``. They have no sequence numbers and no domain."""
    index, count = _headers(ctx, index, V1)
    ctx.source[index] = sources.intern(
        ctx.exporter[index], ExportProtocol.NETFLOW_V1, np.zeros(len(index), np.int64)
    )
    body = ctx.batch.length[index] - V1.header
    short = _is_short_v1(body, count)
    for layout, mine in ((V1_SHORT, short), (V1, ~short)):
        if mine.any():
            _records(ctx, index[mine], count[mine], layout)


def decode_v5(ctx: DecodeContext, index: I64, sources: SourceTable) -> None:
    """Decode the NetFlow v5 datagrams ``index``.

    The observation domain is ``engine_type << 8 | engine_id``. Huawei documents the sampling field
    of NetStream v5 as reserved, and sends 0 whatever the sampler is set to; and other exporters set
    the interval without a mode. So only an interval says something, and 0 leaves the rate to the
    configuration.
    """
    index, count = _headers(ctx, index, V5)
    start = ctx.batch.offset[index]
    engine = gather.u16(ctx.batch.buffer, start + 20)
    sampling = gather.u16(ctx.batch.buffer, start + 22)
    _sequence(ctx, index, count)
    ctx.source[index] = sources.intern(
        ctx.exporter[index], ExportProtocol.NETFLOW_V5, engine.astype(np.int64)
    )
    rows, present = _records(ctx, index, count, V5)
    if rows is None:
        return
    mode = (sampling >> MODE_BITS).astype(np.uint8)
    interval = (sampling & ((1 << MODE_BITS) - 1)).astype(np.uint32)
    _repeat(rows, "engine_type", (engine >> 8).astype(np.uint8), present)
    _repeat(rows, "engine_id", (engine & 0xFF).astype(np.uint8), present)
    _repeat(rows, "sampling_mode", mode, present)
    _repeat(rows, "sampling_interval", interval, present)
    known = (interval > 1) | ((mode != 0) & (interval == 1))
    if known.any():
        valid = None if known.all() else np.repeat(known, present)
        source = np.full(len(rows), SamplingSource.HEADER, np.uint8)
        rate = np.repeat(interval, present)
        rows.set("sampling_rate", rate, CANONICAL["sampling_rate"], valid)
        rows.set("sampling_source", source, CANONICAL["sampling_source"], valid)


def decode_v7(ctx: DecodeContext, index: I64, sources: SourceTable) -> None:
    """Decode the NetFlow v7 datagrams ``index``.

    Their header has four reserved octets where v5 has the engine, so the domain is always 0.
    """
    index, count = _headers(ctx, index, V7)
    _sequence(ctx, index, count)
    ctx.source[index] = sources.intern(
        ctx.exporter[index], ExportProtocol.NETFLOW_V7, np.zeros(len(index), np.int64)
    )
    _records(ctx, index, count, V7)


def _headers(ctx: DecodeContext, index: I64, layout: Layout) -> tuple[I64, I64]:
    """The datagrams of ``index`` with a whole header, and the record count that they claim.

    A datagram without a whole header keeps source -1: nothing tells its observation domain.
    """
    whole = ctx.batch.length[index] >= layout.header
    ctx.mark(
        index[~whole],
        Status.MALFORMED_HEADER,
        0,
        f"shorter than the {layout.header} octets of a v{layout.version.value} header",
    )
    index = index[whole]
    start = ctx.batch.offset[index]
    buffer = ctx.batch.buffer
    seconds = gather.u32(buffer, start + 8).astype(np.int64)
    ctx.export_ns[index] = seconds * 1_000_000_000 + gather.u32(buffer, start + 12)
    return index, gather.u16(buffer, start + 2).astype(np.int64)


def _sequence(ctx: DecodeContext, index: I64, count: I64) -> None:
    """v5 and v7 number their flows: the next number is larger by the header's own count."""
    ctx.sequence[index] = gather.u32(ctx.batch.buffer, ctx.batch.offset[index] + 16)
    ctx.sequence_units[index] = count


def _is_short_v1(body: I64, count: I64) -> NDArray[np.bool_]:
    """Which v1 datagrams have records of 48 octets, by their length and count.

    Where the two disagree, the length alone decides, and 48 if it fits both or neither: those
    exporters are the ones still in use.
    """
    short, long = V1_SHORT.record, V1.record
    guess = (body % short == 0) | (body % long != 0)
    decided: NDArray[np.bool_] = (body == count * short) | ((body != count * long) & guess)
    return decided


def _records(
    ctx: DecodeContext, index: I64, count: I64, layout: Layout
) -> tuple[Columns | None, I64]:
    """Decode the whole records of ``index``, ``count`` claimed; the rows, and how many each has.

    A count that disagrees with the length is an error of the datagram, not of its whole records.
    Fewer octets than a record after the last one are padding, which real exporters send.
    """
    batch = ctx.batch
    body = batch.length[index] - layout.header
    whole = body // layout.record
    present = np.minimum(count, whole)
    wrong = whole != count
    if wrong.any():
        ctx.mark(
            index[wrong],
            Status.MALFORMED_LENGTH,
            layout.header + present[wrong] * layout.record,
            "the header's count of records does not agree with the length",
        )
        # one of the two is a lie, so nothing tells what the next sequence number should be
        ctx.sequence_units[index[wrong]] = -1
    ctx.records[index] = present
    if not present.any():
        return None, present
    at, _ = gather.ranges(batch.offset[index] + layout.header, present, layout.record)
    rows = Columns(np.repeat(index, present), np.repeat(ctx.source[index], present))
    for name, values in _columns(batch.buffer, at, layout).items():
        rows.set(name, values, _type(name))
    uptime = gather.u32(batch.buffer, batch.offset[index] + 4)
    _times(rows, np.repeat(uptime, present), np.repeat(ctx.export_ns[index], present))
    ctx.flows.append(rows)
    return rows, present


def _type(name: str) -> pa.DataType:
    return CANONICAL.get(name) or _V7_TYPES[name]


def _columns(buffer: U8, at: I64, layout: Layout) -> dict[str, NDArray[Any]]:
    """The fields of the records at the offsets ``at``, each as an array of its column's dtype.

    In blocks: a pass over each field reads every cache line of the records, so that they should
    stay in the second-level cache.
    """
    n = len(at)
    names = layout.dtype.names or ()
    columns = {
        name: mapped(n) if _type(name) == ADDRESS else np.empty(n, _type(name).to_pandas_dtype())
        for name in names
    }
    for start in range(0, n, BLOCK):
        block = slice(start, min(start + BLOCK, n))
        records = gather.records(buffer, at[block], layout.record).reshape(-1).view(layout.dtype)
        for name, values in columns.items():
            if values.ndim == 2:
                values.view(np.uint32)[block, 3] = records[name].view(np.uint32)
            else:
                values[block] = records[name]
    return columns


def _times(rows: Columns, uptime: NDArray[np.uint32], export_ns: I64) -> None:
    """Absolute times from the exporter's uptime (ms) at each switched packet and at export.

    The difference is taken as signed 32 bits: uptime wraps after 49.7 days, and records from before
    the wrap, or from a clock that runs a little ahead, stay near the time of export.
    """
    late = np.zeros(len(rows), np.bool_)
    for edge in ("start", "end"):
        switched = rows.columns[f"{edge}_uptime_ms"].values
        # in place: fresh memory costs more than the arithmetic
        time = (uptime - switched).view(np.int32).astype(np.int64)
        time *= -1_000_000
        time += export_ns
        rows.set(f"{edge}_ns", time, CANONICAL[f"{edge}_ns"])
        late |= uptime < switched
    if late.any():
        rows.set("uptime_lt_switched", late, CANONICAL["uptime_lt_switched"], late)


def mapped(n: int) -> U8:
    """``n`` IPv4-mapped addresses, ``uint8 (n, 16)``, of which the last four octets are not set."""
    out = np.empty((n, 2), np.uint64)
    out[:, 0] = 0
    # memory order, not value order: octets 00 00 ff ff on any machine
    out[:, 1] = np.frombuffer(b"\x00\x00\xff\xff\x00\x00\x00\x00", np.uint64)
    return out.view(np.uint8)


def _repeat(rows: Columns, name: str, values: NDArray[Any], present: I64) -> None:
    """Set a column from the header's value of each datagram."""
    rows.set(name, np.repeat(values, present), CANONICAL[name])
