"""Record bodies by table: the fields of a format in their order, read for all records at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from appliance.decode import gather
from appliance.decode.packet.frames import I64, U8, Mask, block, words
from appliance.schema import ADDRESS, CANONICAL, LABELS

Kind = Literal[
    "u32",
    "u64",
    "f32",
    "mac",
    "mac6",
    "ip4",
    "ip6",
    "address",
    "string",
    "list",
    "path",
    "adapters",
]
"""How a field is sent (sFlow version 5, section 5; XDR, RFC 4506).

``mac`` has two bytes of padding, ``mac6`` has none. ``address`` is a type word and 0, 4 or 16
bytes. ``list`` is a counted list of words; ``path`` a list of AS path segments; ``adapters`` a list
of interfaces with the MAC addresses of each.
"""

_WIDTH: dict[str, int] = {
    "u32": 4, "u64": 8, "f32": 4, "mac": 8, "mac6": 6, "ip4": 4, "ip6": 16
}  # fmt: skip
_TYPE: dict[str, pa.DataType] = {
    "u32": pa.uint32(),
    "u64": pa.uint64(),
    "f32": pa.float32(),
    "mac": pa.uint64(),
    "mac6": pa.uint64(),
    "ip4": ADDRESS,
    "ip6": ADDRESS,
    "address": ADDRESS,
    "string": pa.string(),
    "list": LABELS,
    "path": LABELS,
    "adapters": LABELS,
}
_MAPPED = np.frombuffer(bytes(10) + b"\xff\xff", np.uint8)
# RFC 3629, section 4; Arrow matches binary columns byte by byte
_UTF8 = (
    r"^(?:[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]"
    r"|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    r"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})*$"
)
MAX_GROUPS = 32
"""Segments of one AS path, or adapters of one host, that are read."""

Read = tuple[str, "NDArray[Any] | pa.Array", pa.DataType, "Mask | None"]
"""One column of what was read: name, values, type, and which rows have it (None: all)."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a record, and the column that it becomes."""

    name: str
    kind: Kind
    type: pa.DataType


Run = tuple[tuple[Field, int], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The fields of one format."""

    fields: tuple[Field, ...]
    runs: tuple[tuple[int, Run] | Field, ...]
    """Neighbours of fixed width as (bytes, fields with offsets), between the variable ones."""

    @classmethod
    def of(cls, *fields: tuple[str, Kind]) -> Layout:
        """A layout of (column, kind) pairs; canonical columns have their canonical types."""
        parts = tuple(Field(name, kind, CANONICAL.get(name, _TYPE[kind])) for name, kind in fields)
        runs: list[tuple[int, Run] | Field] = []
        for part in parts:
            width = _WIDTH.get(part.kind)
            if width is None:
                runs.append(part)
            elif runs and isinstance(runs[-1], tuple):
                size, run = runs[-1]
                runs[-1] = (size + width, (*run, (part, size)))
            else:
                runs.append((width, ((part, 0),)))
        return cls(parts, tuple(runs))

    @classmethod
    def words(cls, prefix: str, names: str) -> Layout:
        """A layout of 32-bit counters: ``prefix`` and each of the blank-separated ``names``."""
        return cls.of(*((prefix + name, "u32") for name in names.split()))

    def read(self, buffer: U8, start: I64, end: I64) -> tuple[list[Read], Mask | None]:
        """The columns of the records ``buffer[start[i]:end[i]]`` (``int64 (n,)`` each).

        Records that are shorter have no value in the fields that they do not reach; longer ones
        are read as far as this layout goes (sFlow allows formats to grow). The mask
        (``bool (n,)``, None: none) says which records count more than they hold, or have an
        address of no known type; these have no value from there on.
        """
        out: list[Read] = []
        pos = start
        lying: Mask | None = None
        for run in self.runs:
            if isinstance(run, tuple):
                size, fields = run
                out.extend(_fixed(buffer, pos, end, size, fields))
                pos = pos + size
                continue
            values: NDArray[Any] | pa.Array
            begin, valid = pos, None
            if run.kind == "address":
                values, valid, pos, sound = _address(buffer, pos, end)
            elif run.kind == "string":
                values, pos, sound = _string(buffer, pos, end)
            elif run.kind == "list":
                values, pos, sound = _list(buffer, pos, end)
            else:
                groups = _Groups(buffer, pos, end, 4 if run.kind == "path" else 8)
                pos, sound = groups.pos, groups.valid
                out.extend(groups.path() if run.kind == "path" else groups.adapters())
            if run.kind not in ("path", "adapters"):
                out.append((run.name, values, run.type, valid))
            if not sound.all():
                # a record that ended before this field is short, which is no lie
                false = ~sound & (begin + 4 <= end)
                lying = false if lying is None else lying | false
        return out, lying


def _fixed(buffer: U8, pos: I64, end: I64, size: int, fields: Run) -> Iterator[Read]:
    whole = block(buffer, pos, size)
    room = end - pos
    complete = bool((room >= size).all())
    for field, at in fields:
        valid = None if complete else room >= at + _WIDTH[field.kind]
        if field.kind in ("ip4", "ip6"):
            yield field.name, _addresses(whole, at, field.kind), field.type, valid
            continue
        if field.kind in ("mac", "mac6"):
            high = words(whole, at, ">u4").astype(np.uint64) << np.uint64(16)
            values = high | words(whole, at + 4, ">u2").astype(np.uint64)
        else:
            sent = {"u32": ">u4", "u64": ">u8", "f32": ">f4"}[field.kind]
            raw = words(whole, at, sent)
            values = raw.astype(field.type.to_pandas_dtype())
            if values.itemsize < raw.itemsize:
                # a value that does not fit is one of the marks for "unknown"
                fits = values == raw
                if not fits.all():
                    valid = fits if valid is None else valid & fits
        yield field.name, values, field.type, valid


def _addresses(whole: U8, at: int, kind: str) -> U8:
    if kind == "ip6":
        return np.ascontiguousarray(whole[:, at : at + 16])
    out = np.empty((len(whole), 16), np.uint8)
    out[:, :12] = _MAPPED
    out[:, 12:] = whole[:, at : at + 4]
    return out


def _address(buffer: U8, pos: I64, end: I64) -> tuple[U8, Mask, I64, Mask]:
    """Addresses with a type word: 1 IPv4, 2 IPv6, 0 unknown; other types end the record."""
    whole = block(buffer, pos, 20)
    kind = words(whole, 0, ">u4")
    four, six = kind == 1, kind == 2
    size = np.where(four, 8, np.where(six, 20, 4))
    sound = (kind <= 2) & (pos + size <= end)
    valid = (four | six) & sound
    values = np.zeros((len(pos), 16), np.uint8)
    values[:, :12] = _MAPPED
    values[:, 12:] = whole[:, 4:8]
    values[six] = whole[six, 4:20]
    return values, valid, np.where(sound, pos + size, end), sound


def _counted(buffer: U8, pos: I64, end: I64, unit: int) -> tuple[I64, Mask]:
    """How many units of ``unit`` bytes follow the count at ``pos``; 0 where they cannot fit."""
    room = end - pos - 4
    count = words(block(buffer, pos, 4), 0, ">u4").astype(np.int64)
    valid = (room >= 0) & (count * unit <= room)
    return np.where(valid, count, 0), valid


def _offsets(count: I64) -> pa.Array:
    offsets = np.zeros(len(count) + 1, np.int32)
    np.cumsum(count, out=offsets[1:])
    return pa.array(offsets)


def _string(buffer: U8, pos: I64, end: I64) -> tuple[pa.Array, I64, Mask]:
    count, valid = _counted(buffer, pos, end, 1)
    array = text(buffer, pos + 4, count, valid)
    return array, np.where(valid, pos + 4 + (count + 3 & ~3), end), valid


def text(buffer: U8, start: I64, length: I64, valid: Mask) -> pa.Array:
    """Strings of ``length`` bytes from ``start``; of those that are not UTF-8, the ASCII part."""
    where, owner = gather.ranges(start, length)
    data = buffer[where]
    nulls = len(valid) - int(np.count_nonzero(valid))
    validity = pa.py_buffer(np.packbits(valid, bitorder="little")) if nulls else None
    offsets = _offsets(length).buffers()[1]

    def build(type_: pa.DataType, content: U8) -> pa.Array:
        buffers = [validity, offsets, pa.py_buffer(content)]
        return pa.Array.from_buffers(type_, len(length), buffers, nulls)

    array = build(pa.binary(), data)
    try:
        return array.cast(pa.string())
    except pa.ArrowInvalid:
        sound = pc.fill_null(pc.match_substring_regex(array, _UTF8), True)
        keep = (data < 128) | sound.to_numpy(zero_copy_only=False)[owner]
        return build(pa.string(), np.where(keep, data, np.uint8(ord("?"))))


def _list(buffer: U8, pos: I64, end: I64) -> tuple[pa.Array, I64, Mask]:
    count, valid = _counted(buffer, pos, end, 4)
    values = words(block(buffer, gather.ranges(pos + 4, count, 4)[0], 4), 0, ">u4")
    array = pa.ListArray.from_arrays(
        _offsets(count), pa.array(values.astype(np.uint32)), mask=pa.array(~valid)
    )
    return array, np.where(valid, pos + 4 + 4 * count, end), valid


class _Groups:
    """A counted list of groups, each a word and a counted list of items, flattened.

    The groups of all records are read in step. A record is valid if all of its groups fit.
    """

    def __init__(self, buffer: U8, pos: I64, end: I64, unit: int) -> None:
        n = len(pos)
        self.buffer = buffer
        declared = words(block(buffer, pos, 4), 0, ">u4").astype(np.int64)
        self.valid: Mask = (pos + 4 <= end) & (declared <= MAX_GROUPS)
        self.count: I64 = np.zeros(n, np.int64)
        """``int64 (n,)``: items of each record, over all of its groups."""
        self.pos: I64 = np.where(self.valid, pos + 4, end)
        rows = np.flatnonzero(self.valid & (declared > 0))
        parts: list[tuple[I64, NDArray[np.uint32], I64, I64, I64]] = []
        for number in range(MAX_GROUPS):
            if not len(rows):
                break
            at = self.pos[rows]
            items, fits = _counted(buffer, at + 4, end[rows], unit)
            tag = words(block(buffer, at, 4), 0, ">u4").astype(np.uint32)
            self.valid[rows[~fits]] = False
            self.pos[rows[~fits]] = end[rows[~fits]]
            rows, items, at, tag = rows[fits], items[fits], at[fits], tag[fits]
            parts.append((rows, tag, at + 8, items, self.count[rows]))
            self.count[rows] += items
            self.pos[rows] = at + 8 + items * unit
            rows = rows[declared[rows] > number + 1]
        self.count[~self.valid] = 0
        first = np.cumsum(self.count) - self.count
        self.first = first
        total = int(self.count.sum())
        self.tag: NDArray[np.uint32] = np.zeros(total, np.uint32)
        """``uint32 (m,)``: the group's word, of each item."""
        self.at: I64 = np.zeros(total, np.int64)
        """``int64 (m,)``: where each item is in the buffer."""
        for owners, tag, start, items, before in parts:
            keep = self.valid[owners]
            owners, tag, items = owners[keep], tag[keep], items[keep]
            target, group = gather.ranges(first[owners] + before[keep], items)
            self.at[target] = gather.ranges(start[keep], items, unit)[0]
            self.tag[target] = tag[group]

    def _lists(self, values: NDArray[Any]) -> pa.Array:
        return pa.ListArray.from_arrays(
            _offsets(self.count), pa.array(values), mask=pa.array(~self.valid)
        )

    def path(self) -> Iterator[Read]:
        """An AS path; its first member is the next AS, its last the destination's."""
        values = words(block(self.buffer, self.at, 4), 0, ">u4").astype(np.uint32)
        some = self.count > 0
        array = self._lists(values)
        if not some.all():
            # an empty path says no more than a missing one
            array = pa.ListArray.from_arrays(
                _offsets(self.count), pa.array(values), mask=pa.array(~some)
            )
        yield "as_path", array, LABELS, None
        if some.any():
            first = np.where(some, self.first, 0)
            last = np.where(some, self.first + self.count - 1, 0)
            yield "dst_peer_as", values[first], pa.uint32(), some
            yield "dst_as", values[last], pa.uint32(), some

    def adapters(self) -> Iterator[Read]:
        """A host's adapters: one entry a MAC address, in two lists of equal length."""
        whole = block(self.buffer, self.at, 8)
        macs = words(whole, 0, ">u8").astype(np.uint64) >> np.uint64(16)
        yield "adapter_if_index", self._lists(self.tag), pa.list_(pa.uint32()), None
        yield "adapter_mac", self._lists(macs), pa.list_(pa.uint64()), None
