"""Data records of one layout, located: the bytes of any field of all records at once.

Fixed-length layouts need one copy of all records side by side. With variable-length fields
(RFC 7011, section 7) the lengths stand in the data, so the ``k``-th record of every set is located
in round ``k``; sets by the thousand share a round, and where there are few, plain integers are
quicker than vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.batch import U8
from appliance.decode import gather
from appliance.decode.context import DecodeContext, Status
from appliance.decode.netflow.layout import Field, Layout
from appliance.decode.netflow.walk import Sets

I64 = NDArray[np.int64]

FEW = 24
"""Sets below which a round is done one by one."""


@dataclass(slots=True)
class Records:
    """``n`` records of one layout, by datagram."""

    buffer: U8
    datagram: I64
    template_id: NDArray[np.uint16]
    runs: list[U8]
    """By segment: for a fixed run ``uint8 (n, size)``; unused for a variable field."""
    values: dict[int, tuple[I64, I64]]
    """By segment of a variable field: absolute offset and length of each value."""

    def __len__(self) -> int:
        return len(self.datagram)

    def octets(self, field: Field) -> U8:
        """``uint8 (n, length)``: a fixed field of all records."""
        return self.runs[field.segment][:, field.offset : field.offset + field.length]

    def view(self, field: Field, dtype: str, skip: int = 0) -> NDArray[np.generic]:
        """A fixed field, from byte ``skip`` of it, as a strided view of ``dtype``."""
        run = self.runs[field.segment]
        return np.ndarray((len(run),), dtype, run, field.offset + skip, (run.shape[1],))


def locate(ctx: DecodeContext, layout: Layout, sets: Sets, limit: int) -> Records:
    """The records of data sets that all have ``layout``, at most ``limit`` of a datagram."""
    if layout.fixed:
        return _locate_fixed(ctx, layout, sets, limit)
    return _locate_variable(ctx, layout, sets, limit)


def _locate_fixed(ctx: DecodeContext, layout: Layout, sets: Sets, limit: int) -> Records:
    size = layout.minimum
    count = (sets.end - sets.start) // size
    none = count == 0
    if none.any():
        short = none & (sets.end > sets.start)
        where = sets.datagram[short]
        at = sets.start[short] - ctx.batch.offset[where]
        ctx.mark(where, Status.MALFORMED_DATA, at, "set shorter than a record")
    if len(count) and count.max() * len(count) > limit:
        count = _limited(ctx, sets, count, limit)
    offset, owner = gather.ranges(sets.start, count, size)
    buffer = ctx.batch.buffer
    return Records(
        buffer,
        sets.datagram[owner],
        sets.id.astype(np.uint16)[owner],
        [gather.records(buffer, offset, size)],
        {},
    )


def _limited(ctx: DecodeContext, sets: Sets, count: I64, limit: int) -> I64:
    """``count`` cut so that no datagram has more than ``limit``; sets are in arrival order."""
    over = np.bincount(sets.datagram, count) > limit
    if not over.any():
        return count
    ctx.mark(np.flatnonzero(over), Status.OVER_LIMIT, 0, "too many records")
    before = np.cumsum(count) - count
    first = np.flatnonzero(np.diff(sets.datagram, prepend=-1))
    base = np.repeat(before[first], np.diff(first, append=len(count)))
    allowed: I64 = np.clip(limit - (before - base), 0, count)
    return allowed


def _locate_variable(ctx: DecodeContext, layout: Layout, sets: Sets, limit: int) -> Records:
    """Locate by rounds; offsets of all segments of each record come out as one table."""
    buffer = ctx.batch.buffer
    segments = layout.segments
    width = 2 * len(segments)
    chunks: list[tuple[I64, I64]] = []
    live = np.arange(len(sets), dtype=np.int64)
    position, end = sets.start, sets.end
    bad: list[int] = []
    over: list[int] = []
    while len(live) > FEW:
        if len(chunks) == limit:
            over += live.tolist()
            live = live[:0]
            break
        more = position + layout.minimum <= end
        if layout.minimum < 4:
            for k in np.flatnonzero(more & (end - position < 4)).tolist():
                more[k] = not _padding(buffer, int(position[k]), int(end[k]))
        if not more.all():
            live, position, end = live[more], position[more], end[more]
            continue
        table = np.empty((len(live), width), np.int64)
        fits = _locate_round(buffer, segments, position, end, table)
        if fits is not None:
            for k in np.flatnonzero(~fits).tolist():
                if not _padding(buffer, int(position[k]), int(end[k])):
                    bad.append(int(live[k]))
            table, live, end = table[fits], live[fits], end[fits]
        position = table[:, -2] + table[:, -1]
        chunks.append((table, live))
    rows: list[list[int]] = []
    owners: list[int] = []
    for one, at, stop in zip(live.tolist(), position.tolist(), end.tolist(), strict=True):
        most = len(rows) + limit - len(chunks)
        if not _locate_one_set(buffer, layout, one, at, stop, rows, owners, most):
            (over if len(rows) == most else bad).append(one)
    if rows:
        chunks.append((np.asarray(rows, np.int64), np.asarray(owners, np.int64)))
    if bad:
        where = np.unique(sets.datagram[np.asarray(bad)])
        ctx.mark(where, Status.MALFORMED_DATA, 0, "variable-length field beyond its set")
    if over:
        where = np.unique(sets.datagram[np.asarray(over)])
        ctx.mark(where, Status.OVER_LIMIT, 0, "too many records")
    table, owner = _in_order(chunks, len(sets), width)
    runs: list[U8] = []
    values: dict[int, tuple[I64, I64]] = {}
    for k, size in enumerate(segments):
        if size < 0:
            runs.append(buffer[:0])
            values[k] = table[2 * k], table[2 * k + 1]
        else:
            runs.append(gather.records(buffer, table[2 * k], size))
    return Records(buffer, sets.datagram[owner], sets.id.astype(np.uint16)[owner], runs, values)


def _in_order(chunks: list[tuple[I64, I64]], sets: int, width: int) -> tuple[I64, I64]:
    """Join the rounds: records by set, then position; one row of the table a column."""
    filled = np.zeros(sets, np.int64)
    for _, owner in chunks:
        filled += np.bincount(owner, minlength=sets)
    first = np.cumsum(filled) - filled
    owners = np.repeat(np.arange(sets, dtype=np.int64), filled)
    table = np.empty((width, len(owners)), np.int64)
    for part, owner in chunks:
        # a chunk has one record of each set, or several one after the other
        new = np.flatnonzero(np.diff(owner, prepend=-1))
        place = first[owner]
        if len(new) < len(owner):
            run = np.diff(new, append=len(owner))
            place = place + np.arange(len(owner)) - np.repeat(new, run)
        table[:, place] = part.T
        first += np.bincount(owner, minlength=sets)
    return table, owners


def _locate_round(
    buffer: U8, segments: tuple[int, ...], position: I64, end: I64, table: I64
) -> NDArray[np.bool_] | None:
    """Fill ``table`` with offset and length of each segment of one record of each set.

    Returns which of them fit, or None if all do; the offsets of the others mean nothing.
    """
    fits: NDArray[np.bool_] | None = None
    last = len(buffer) - 1
    for k, size in enumerate(segments):
        if size >= 0:
            table[:, 2 * k] = position
            table[:, 2 * k + 1] = size
            position = position + size
            continue
        # one read past a set's end is harmless, one past the buffer's is not
        length = buffer[np.minimum(position, last)].astype(np.int64)
        position = position + 1
        long = length == 255
        if long.any():
            at = np.minimum(position[long], last - 1)
            length[long] = buffer[at].astype(np.int64) << 8 | buffer[at + 1]
            position = position + 2 * long
        table[:, 2 * k] = position
        table[:, 2 * k + 1] = length
        position = position + length
    inside = position <= end
    if not inside.all():
        fits = inside
    return fits


def _padding(buffer: U8, start: int, end: int) -> bool:
    return end - start < 4 and not buffer[start:end].any()


def _locate_one_set(
    buffer: U8,
    layout: Layout,
    owner: int,
    start: int,
    end: int,
    rows: list[list[int]],
    owners: list[int],
    most: int,
) -> bool:
    """The records of one set; False if the last one does not fit, or there are too many."""
    data = buffer[start:end].tobytes()
    size = len(data)
    segments = layout.segments
    at = 0
    while at + layout.minimum <= size:
        if size - at < 4 and not any(data[at:]):
            break
        if len(rows) == most:
            return False
        row = []
        for length in segments:
            if length < 0:
                if at >= size:
                    return False
                length = data[at]
                at += 1
                if length == 255:
                    if at + 2 > size:
                        return False
                    length = data[at] << 8 | data[at + 1]
                    at += 2
            row += [start + at, length]
            at += length
        if at > size:
            return False
        rows.append(row)
        owners.append(owner)
    return True
