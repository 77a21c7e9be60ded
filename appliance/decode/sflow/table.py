"""Rows that are filled format by format: one row a sample, many records a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from appliance.columns import Column, to_arrow
from appliance.decode import gather
from appliance.decode.context import DecodeContext, Status
from appliance.decode.packet.frames import I64, U8, Mask, Rows
from appliance.decode.sflow.layout import Layout, text
from appliance.decode.sflow.walk import Units
from appliance.schema import CANONICAL, EXTRA, LABELS

EXTRA_BYTES = 256
"""Of a record of no known format, this much is kept."""
_STANDARD = 1 << 12
"""Formats below are enterprise 0."""
_HEX = np.frombuffer(bytes(range(256)).hex().encode(), np.uint8).reshape(256, 2)


@dataclass(slots=True)
class Table:
    """Columns of ``n`` rows; what a row has already is not overwritten."""

    n: int
    columns: dict[str, Column] = field(default_factory=dict)
    lies: list[I64] = field(default_factory=list)
    """Numbers of records that say more of themselves than they hold."""

    def set(self, name: str, values: NDArray[Any], valid: Mask | None = None) -> None:
        """Set canonical column ``name`` of all rows."""
        self.add(name, values, CANONICAL[name], valid, None)

    def add(
        self,
        name: str,
        values: NDArray[Any] | pa.Array,
        type_: pa.DataType,
        valid: Mask | None,
        rows: Rows,
    ) -> None:
        """Give ``rows`` (distinct; None: all) values where they have none and ``valid`` is true."""
        if valid is not None and not valid.any():
            return
        if isinstance(values, pa.Array):
            self._add_array(name, values, type_, rows)
            return
        old = self.columns.get(name)
        if rows is None and old is None:
            full = valid is None or bool(valid.all())
            self.columns[name] = Column(values, type_, None if full else valid)
            return
        if old is None:
            into = np.zeros((self.n, *values.shape[1:]), values.dtype)
            has = np.zeros(self.n, np.bool_)
        elif old.valid is None:
            return
        else:
            # both may be shared with another column or be a view of a gathered block
            into, has = np.array(old.values), old.valid.copy()
        where = np.arange(self.n) if rows is None else rows
        new = ~has[where]
        if valid is not None:
            new &= valid
        into[where[new]] = values[new]
        has[where[new]] = True
        self.columns[name] = Column(into, type_, None if has.all() else has)

    def _add_array(self, name: str, values: pa.Array, type_: pa.DataType, rows: Rows) -> None:
        if values.null_count == len(values):
            return
        if rows is not None:
            index = np.full(self.n, -1, np.int32)
            index[rows] = np.arange(len(rows))
            values = values.take(pa.array(index, mask=index < 0))
        old = self.columns.get(name)
        if old is not None:
            before = to_arrow(old)
            values = pc.if_else(before.is_valid(), before, values)
        self.columns[name] = Column(values, type_)

    def read(self, buffer: U8, layout: Layout, records: Units, mask: Mask) -> Rows:
        """Fill in what the records chosen by ``mask`` say, by ``layout``; which rows these are."""
        chosen = first_of_each(records, np.flatnonzero(mask))
        rows = chosen_rows(records, chosen, self.n)
        start, end = records.start[chosen], records.end[chosen]
        columns, lying = layout.read(buffer, start, end)
        for name, values, type_, valid in columns:
            self.add(name, values, type_, valid, rows)
        if lying is not None:
            self.lies.append(chosen[lying])
        return rows

    def complain(self, ctx: DecodeContext, records: Units, datagram: I64) -> None:
        """Mark the datagrams of records that lie; ``datagram``: ``int64 (n,)``, of each row."""
        for lies in self.lies:
            owner = datagram[records.owner[lies]]
            offset = records.start[lies] - ctx.batch.offset[owner]
            ctx.mark(
                owner, Status.MALFORMED_DATA, offset, "a record is shorter than what it counts"
            )

    def formats(self, records: Units) -> None:
        """Column ``record_formats``: enterprise << 12 | format of every record, in order."""
        offsets = np.zeros(self.n + 1, np.int32)
        np.cumsum(records.found, out=offsets[1:])
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(records.format))
        self.columns["record_formats"] = Column(lists, LABELS)

    def keep(self, buffer: U8, records: Units, mask: Mask) -> None:
        """Column ``extra``: the records chosen by ``mask``, as hex by "enterprise.format"."""
        index = np.flatnonzero(mask)
        if not len(index):
            return
        # a map has each key once: of a sample's records of one format, the first
        key = records.owner[index] << 32 | records.format[index]
        index = index[np.sort(np.unique(key, return_index=True)[1])]
        names, which = np.unique(records.format[index], return_inverse=True)
        keys = pa.array([f"{f >> 12}.{f & 0xFFF}" for f in names.tolist()], pa.string())
        length = np.minimum(records.end[index] - records.start[index], EXTRA_BYTES)
        digits = _HEX[buffer[gather.ranges(records.start[index], length)[0]]].reshape(-1)
        start = np.cumsum(length * 2) - length * 2
        values = text(digits, start, length * 2, np.ones(len(index), np.bool_))
        count = np.bincount(records.owner[index], minlength=self.n)
        offsets = np.zeros(self.n + 1, np.int32)
        np.cumsum(count, out=offsets[1:])
        # a map is a list of pairs; from_arrays takes a null offset as a null entry
        nulls = np.append(count == 0, False)
        maps = pa.MapArray.from_arrays(pa.array(offsets, mask=nulls), keys.take(which), values)
        self.columns["extra"] = Column(maps, EXTRA)


def standard_formats(records: Units) -> list[int]:
    """The enterprise 0 formats that occur among ``records``, ascending."""
    standard = records.format[records.format < _STANDARD]
    return np.flatnonzero(np.bincount(standard.astype(np.int64))).tolist()


def known(records: Units, formats: NDArray[np.bool_]) -> Mask:
    """Which records have a format in the table ``formats`` (``bool (4096,)``)."""
    out = records.format < _STANDARD
    out[out] = formats[records.format[out]]
    return out


def format_set(*numbers: int) -> NDArray[np.bool_]:
    """A table for :func:`known`."""
    out = np.zeros(_STANDARD, np.bool_)
    out[list(numbers)] = True
    return out


def first_of_each(records: Units, index: I64) -> I64:
    """Of records of one format, the first of each sample: a second one cannot be shown."""
    owner = records.owner[index]
    again = owner[1:] == owner[:-1]
    return index[np.append(True, ~again)] if again.any() else index


def chosen_rows(records: Units, index: I64, n: int) -> Rows:
    """The rows of the records ``index``, of which no two are of one row."""
    return None if len(index) == n else records.owner[index]
