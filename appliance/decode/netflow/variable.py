"""Records with variable-length fields, found (RFC 7011, section 7).

The lengths stand in the data, so where a record begins is known only when the one before it has
been read: the ``k``-th record of every set is found in round ``k``. Sets by the hundred share a
round; where there are few, plain integers are quicker than vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.batch import U8
from appliance.decode.context import DecodeContext, Status
from appliance.decode.netflow.layout import Layout
from appliance.decode.netflow.walk import Sets

I64 = NDArray[np.int64]

FEW = 24
"""Sets below which rounds are left for reading set by set."""
LONG = 255
"""A first length octet that means: the length is in the next two."""


@dataclass(slots=True)
class Found:
    """``n`` records, by set, then position."""

    owner: I64
    """The set of each."""
    start: I64
    """Absolute offset of each."""
    values: list[tuple[I64, I64]]
    """Absolute offset and length of the value of each variable field."""


@dataclass(slots=True)
class _Search:
    """Found records in the order of finding: parts of columns."""

    buffer: U8
    layout: Layout
    limit: int
    runs: list[int]
    """Bytes of fixed fields before each variable field, and after the last."""
    owner: list[I64]
    within: list[I64]
    """Number of the record in its set."""
    columns: list[list[I64]]
    """The start, then offset and length of each value."""
    bad: list[int]
    over: list[int]

    def rounds(self, position: I64, end: I64) -> tuple[I64, I64, I64, int]:
        """Rounds while there are enough sets; what is left, and the number of rounds."""
        layout, buffer = self.layout, self.buffer
        live = np.arange(len(position), dtype=np.int64)
        number = 0
        while len(live) > FEW and number < self.limit:
            more = position + layout.minimum <= end
            if layout.minimum < 4:
                for k in np.flatnonzero(more & (end - position < 4)).tolist():
                    more[k] = not _padding(buffer, int(position[k]), int(end[k]))
            if not more.all():
                live, position, end = live[more], position[more], end[more]
                continue
            columns = self._round(position)
            after = columns.pop()
            inside = after <= end
            if not inside.all():
                for k in np.flatnonzero(~inside).tolist():
                    if not _padding(buffer, int(position[k]), int(end[k])):
                        self.bad.append(int(live[k]))
                columns = [c[inside] for c in columns]
                live, end, after = live[inside], end[inside], after[inside]
            position = after
            self._add(live, np.full(len(live), number), columns)
            number += 1
        return live, position, end, number

    def _round(self, position: I64) -> list[I64]:
        """Start, offsets and lengths of one record of each set, and where it ends.

        What is read of a record that does not fit means nothing, but is read inside the buffer.
        """
        buffer = self.buffer
        last = len(buffer) - 1
        columns = [position]
        for run in self.runs[:-1]:
            position = position + run
            length = buffer[np.minimum(position, last)].astype(np.int64)
            position = position + 1
            long = length == LONG
            if long.any():
                at = np.minimum(position[long], last - 1)
                length[long] = buffer[at].astype(np.int64) << 8 | buffer[at + 1]
                position = position + 2 * long
            columns += [position, length]
            position = position + length
        columns.append(position + self.runs[-1])
        return columns

    def one_by_one(self, live: I64, position: I64, end: I64, number: int) -> None:
        """The records that are left of the sets ``live``, of which ``number`` have been found."""
        rows: list[list[int]] = []
        owner: list[int] = []
        within: list[int] = []
        for one, at, stop in zip(live.tolist(), position.tolist(), end.tolist(), strict=True):
            new, complete = self._one_set(at, stop, self.limit - number)
            if not complete:
                (self.over if len(new) == self.limit - number else self.bad).append(one)
            rows += new
            owner += [one] * len(new)
            within += range(number, number + len(new))
        if rows:
            table = np.asarray(rows, np.int64)
            self._add(np.asarray(owner), np.asarray(within), list(table.T))

    def _one_set(self, start: int, end: int, most: int) -> tuple[list[list[int]], bool]:
        """The records of one set; False if the last does not fit, or there are too many."""
        data = self.buffer[start:end].tobytes()
        size = len(data)
        rows: list[list[int]] = []
        minimum, inner, last = self.layout.minimum, self.runs[:-1], self.runs[-1]
        at = 0
        while at + minimum <= size:
            if size - at < 4 and not any(data[at:]):
                break
            if len(rows) >= most:
                return rows, False
            row = [start + at]
            for run in inner:
                at += run
                if at >= size:
                    return rows, False
                length = data[at]
                at += 1
                if length == LONG:
                    if at + 2 > size:
                        return rows, False
                    length = data[at] << 8 | data[at + 1]
                    at += 2
                row += (start + at, length)
                at += length
            at += last
            if at > size:
                return rows, False
            rows.append(row)
        return rows, True

    def _add(self, owner: I64, within: I64, columns: list[I64]) -> None:
        self.owner.append(owner)
        self.within.append(within)
        for parts, column in zip(self.columns, columns, strict=True):
            parts.append(column)

    def found(self, sets: int) -> Found:
        """Everything, in order."""
        if not self.owner:
            none = np.zeros(0, np.int64)
            return Found(none, none, [(none, none) for _ in self.runs[:-1]])
        owner = np.concatenate(self.owner)
        count = np.bincount(owner, minlength=sets)
        first = np.cumsum(count) - count
        place = first[owner] + np.concatenate(self.within)
        columns = []
        for parts in self.columns:
            column = np.empty(len(owner), np.int64)
            column[place] = np.concatenate(parts)
            columns.append(column)
        owner = np.repeat(np.arange(sets, dtype=np.int64), count)
        return Found(owner, columns[0], list(zip(columns[1::2], columns[2::2], strict=True)))


def find(ctx: DecodeContext, layout: Layout, sets: Sets, limit: int) -> Found:
    """The records of data sets with one layout, at most ``limit`` a set."""
    runs = [0]
    for size in layout.segments:
        if size < 0:
            runs.append(0)
        else:
            runs[-1] = size
    columns: list[list[I64]] = [[] for _ in range(2 * len(runs) - 1)]
    search = _Search(ctx.batch.buffer, layout, limit, runs, [], [], columns, [], [])
    live, position, end, number = search.rounds(sets.start, sets.end)
    search.one_by_one(live, position, end, number)
    for which, status, why in (
        (search.bad, Status.MALFORMED_DATA, "variable-length field beyond its set"),
        (search.over, Status.OVER_LIMIT, "too many records"),
    ):
        if which:
            where = np.asarray(which)
            datagram = sets.datagram[where]
            ctx.mark(datagram, status, sets.start[where] - ctx.batch.offset[datagram], why)
    return search.found(len(sets))


def _padding(buffer: U8, start: int, end: int) -> bool:
    return end - start < 4 and not buffer[start:end].any()
