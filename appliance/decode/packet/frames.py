"""What the packet decoder's stages hand on, and how they read: bytes at many places at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.decode.gather import records

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64] | None
"""Row numbers of a subset; None means all rows, which saves a copy of every array."""

# What lies at ``pos`` is named by its ethertype, also where no Ethernet header is near: GRE, Geneve
# and NVGRE do the same. Numbers above 16 bits name what no ethertype can, so no frame can claim it.
NOTHING = 0
SNAP_LIMIT = 0x0600
"""Smaller type fields are lengths of IEEE 802.3 frames."""
IPV4 = 0x0800
IPV6 = 0x86DD
ETHERNET = 0x6558
PPP = 0x880B
PPPOE = 0x8864
MPLS = 0x8847
FABRIC_PATH = 0x8903
WIFI = 0x10000
STATES = 0x10001


@dataclass(slots=True)
class Frames:
    """``n`` packets, or packets inside packets, of which the first byte is not decoded yet."""

    buffer: U8
    pos: I64
    """``int64 (n,)``: where in the buffer the next header starts."""
    end: I64
    """``int64 (n,)``: first byte that was not captured."""
    state: NDArray[np.uint32]
    """``uint32 (n,)``: what lies at ``pos``, as an ethertype; NOTHING stops the decoding."""

    def __len__(self) -> int:
        return len(self.pos)


def pick(values: NDArray[Any], rows: Rows) -> NDArray[Any]:
    """``values`` of ``rows``."""
    return values if rows is None else values[rows]


def put(values: NDArray[Any], rows: Rows, new: NDArray[Any] | int) -> None:
    """Set ``values`` of ``rows``."""
    if rows is None:
        values[:] = new
    else:
        values[rows] = new


def subset(mask: Mask) -> Rows:
    """The rows where ``mask`` is true; None where it is true for all."""
    return None if mask.all() else np.flatnonzero(mask)


def block(buffer: U8, offset: I64, size: int) -> U8:
    """``uint8 (n, size)``: the bytes from each offset on, zeros where the buffer has ended.

    The one way in which packet decoding reads, so no offset can make it fail; whether bytes were
    captured is for the callers to compare with ``end``.
    """
    if not len(offset):
        return np.zeros((0, size), np.uint8)
    last = len(buffer) - size
    if int(offset.max()) <= last:
        return records(buffer, offset, size)
    out = np.zeros((len(offset), size), np.uint8)
    inside = offset <= last
    out[inside] = records(buffer, offset[inside], size)
    tail = np.flatnonzero(~inside)
    where = offset[tail, None] + np.arange(size)
    known = where < len(buffer)
    row, column = np.nonzero(known)
    out[tail[row], column] = buffer[where[known]]
    return out


def words(header: U8, at: int, dtype: str) -> NDArray[Any]:
    """Column of big-endian integers at byte ``at`` of each row of ``header``; a view."""
    size = np.dtype(dtype).itemsize
    return header[:, at : at + size].view(dtype)[:, 0]
