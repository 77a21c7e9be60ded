"""Message headers and set headers of all datagrams of a batch at once.

NetFlow v9: RFC 3954, section 5. IPFIX: RFC 7011, section 3. Sets are found in lock step: round
``k`` reads the header of the ``k``-th set of every datagram that has one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.batch import U8
from appliance.decode import gather
from appliance.decode.context import DecodeContext, Status
from appliance.decode.sources import SourceTable
from appliance.schema import ExportProtocol

I64 = NDArray[np.int64]

ORDER_SHIFT = 16
"""A set's place in arrival order is ``datagram << ORDER_SHIFT | number of the set``."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between NetFlow v9 and IPFIX at this level."""

    protocol: ExportProtocol
    header: int
    template_set: int
    options_set: int


V9 = Dialect(ExportProtocol.NETFLOW_V9, 20, 0, 1)
IPFIX = Dialect(ExportProtocol.IPFIX, 16, 2, 3)


@dataclass(slots=True)
class Headers:
    """Headers of the datagrams ``index``; arrays have one entry each."""

    index: I64
    start: I64
    """Absolute offset of the payload."""
    stop: I64
    """Absolute offset where no further set may begin."""
    end: I64
    """Absolute end of the payload."""
    uptime: NDArray[np.uint32] | None
    """``uint32`` ms: v9's sysUptime; None for IPFIX."""


@dataclass(slots=True)
class Sets:
    """All sets of a batch, by datagram, then position: arrays of one length."""

    datagram: I64
    id: I64
    start: I64
    """Absolute offset of the body."""
    end: I64
    """Absolute end of the body, never beyond the datagram's."""
    order: I64

    def __len__(self) -> int:
        return len(self.id)

    def select(self, mask: NDArray[np.bool_]) -> Sets:
        """The sets where ``mask`` is true."""
        return Sets(
            self.datagram[mask], self.id[mask], self.start[mask], self.end[mask], self.order[mask]
        )


def read_headers(ctx: DecodeContext, index: I64, dialect: Dialect, sources: SourceTable) -> Headers:
    """Read the headers, set the context's source, export time and sequence."""
    batch = ctx.batch
    short = batch.length[index] < dialect.header
    if short.any():
        ctx.mark(index[short], Status.MALFORMED_HEADER, 0, "shorter than its header")
        index = index[~short]
    start = batch.offset[index]
    end = start + batch.length[index]
    words = gather.records(batch.buffer, start, dialect.header).view(">u4")
    uptime = None
    stop = end
    if dialect is V9:
        _, uptime, seconds, sequence, domain = (words[:, k] for k in range(5))
        uptime = uptime.astype(np.uint32)
        ctx.sequence_units[index] = 1
    else:
        first, seconds, sequence, domain = (words[:, k] for k in range(4))
        claimed = (first & 0xFFFF).astype(np.int64)
        stop = np.minimum(start + claimed, end)
        wrong = (claimed < dialect.header) | (start + claimed > end)
        ctx.mark(index[wrong], Status.MALFORMED_LENGTH, 2, "message length is not the datagram's")
    ctx.export_ns[index] = seconds.astype(np.int64) * 1_000_000_000
    ctx.sequence[index] = sequence
    ctx.source[index] = sources.intern(
        ctx.exporter[index], int(dialect.protocol), domain.astype(np.int64)
    )
    return Headers(index, start, stop, end, uptime)


def _all_zero(buffer: U8, start: I64, end: I64) -> NDArray[np.bool_]:
    """Whether all bytes of each non-empty range are zero."""
    if not len(start):
        return np.zeros(0, np.bool_)
    last = end - 1
    pairs = np.column_stack([start, last]).ravel()
    all_but_last = np.bitwise_or.reduceat(buffer[: int(last.max()) + 1], pairs)[::2]
    return np.asarray((all_but_last | buffer[last]) == 0)


def walk_sets(ctx: DecodeContext, headers: Headers, dialect: Dialect, limit: int) -> Sets:
    """Find the sets of all datagrams, at most ``limit`` each."""
    buffer = ctx.batch.buffer
    live = headers.index
    base = headers.start
    position = base + dialect.header
    stop, end = headers.stop, headers.end
    found: list[tuple[I64, I64, I64, I64, I64]] = []
    for number in range(limit + 1):
        more = position + 4 <= stop
        if not more.all():
            tail = (position < stop) & ~more
            if tail.any():
                dirty = tail.copy()
                dirty[tail] = ~_all_zero(buffer, position[tail], stop[tail])
                ctx.mark(
                    live[dirty], Status.MALFORMED_LENGTH, (position - base)[dirty], "trailing bytes"
                )
            live, base, position, stop, end = (a[more] for a in (live, base, position, stop, end))
        if not len(live):
            break
        if number == limit:
            ctx.mark(live, Status.OVER_LIMIT, position - base, "too many sets")
            break
        head = gather.records(buffer, position, 4).view(">u2")
        set_id = head[:, 0].astype(np.int64)
        length = head[:, 1].astype(np.int64)
        after = position + length
        good = (length >= 4) & (after <= stop)
        if good.all():
            found.append((live, set_id, position + 4, after, live << ORDER_SHIFT | number))
            position = after
            continue
        # zeros to the end are padding: some exporters pad the whole datagram
        bad = ~good
        padding = bad & (set_id == 0) & (length == 0)
        if padding.any():
            padding[padding] = _all_zero(buffer, position[padding], stop[padding])
        wrong = bad & ~padding
        ctx.mark(
            live[wrong], Status.MALFORMED_LENGTH, (position - base)[wrong], "impossible set length"
        )
        # a set that leaves its message, or the datagram, still has the records that are there
        kept = good | (wrong & (length >= 4))
        cut = np.minimum(after, end)
        found.append(
            (
                live[kept],
                set_id[kept],
                position[kept] + 4,
                cut[kept],
                live[kept] << ORDER_SHIFT | number,
            )
        )
        live, base, stop, end, position = (a[good] for a in (live, base, stop, end, after))
    if not found:
        empty = np.zeros(0, np.int64)
        return Sets(empty, empty, empty, empty, empty)
    if len(found) == 1:
        return Sets(*found[0])
    columns = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    by_order = np.argsort(columns[4], kind="stable")
    return Sets(*(c[by_order] for c in columns))
