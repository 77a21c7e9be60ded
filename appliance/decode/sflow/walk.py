"""Units of type, length and value: sFlow's samples in datagrams and records in samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.decode.packet.frames import I64, U8, Mask, block


@dataclass(slots=True)
class Units:
    """``m`` units of ``n`` enclosing ones, in the order of the enclosing ones and of the bytes."""

    owner: I64
    """``int64 (m,)``: number of the enclosing unit."""
    format: NDArray[np.uint32]
    """``uint32 (m,)``: enterprise << 12 | format."""
    start: I64
    """``int64 (m,)``: first byte of the value in the buffer."""
    end: I64
    """``int64 (m,)``: its end, within the enclosing unit whatever the length field says."""
    found: I64
    """``int64 (n,)``: units of each enclosing one."""
    stop: I64
    """``int64 (n,)``: where walking each enclosing one ended."""
    lying: Mask
    """``bool (n,)``: the last unit's length reaches beyond the enclosing one."""
    missing: Mask
    """``bool (n,)``: fewer units than declared."""
    over: Mask
    """``bool (n,)``: more units than the limit."""

    def __len__(self) -> int:
        return len(self.owner)

    def select(self, mask: Mask) -> Units:
        """The units where ``mask`` is true; what is said of the enclosing ones stays."""
        if mask.all():
            return self
        index = np.flatnonzero(mask)
        return Units(
            self.owner[index],
            self.format[index],
            self.start[index],
            self.end[index],
            self.found,
            self.stop,
            self.lying,
            self.missing,
            self.over,
        )


def walk(buffer: U8, start: I64, end: I64, declared: NDArray[np.uint32], limit: int) -> Units:
    """Walk ``n`` enclosing units in step: round ``k`` reads unit ``k`` of all of them.

    ``declared``: how many units each says it has; read as an upper bound only, since what is there
    decides. At most ``limit`` of each are read.
    """
    n = len(start)
    pos = start.copy()
    found = np.zeros(n, np.int64)
    lying, missing = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    active = np.flatnonzero(declared > 0)
    rounds: list[tuple[I64, NDArray[np.uint32], I64, I64]] = []
    for number in range(limit):
        fits = pos[active] + 8 <= end[active]
        if not fits.all():
            missing[active[~fits]] = True
            active = active[fits]
        if not len(active):
            break
        body = pos[active] + 8
        head = block(buffer, body - 8, 8).view(">u4")
        length = head[:, 1].astype(np.int64)
        stop = end[active]
        room = stop - body
        rounds.append((active, head[:, 0], body, body + np.minimum(length, room)))
        # XDR rounds opaque data up to four bytes (RFC 4506, section 4.10)
        pos[active] = np.minimum(body + (length + 3 & ~3), stop)
        found[active] = number + 1
        more = declared[active] > number + 1
        if (length > room).any():
            lying[active[length > room]] = True
            more &= length <= room
        active = active[more]
    over = np.zeros(n, np.bool_)
    over[active] = pos[active] + 8 <= end[active]

    first = np.cumsum(found) - found
    total = int(found.sum())
    units = Units(
        np.repeat(np.arange(n), found),
        np.empty(total, np.uint32),
        np.empty(total, np.int64),
        np.empty(total, np.int64),
        found,
        pos,
        lying,
        missing,
        over,
    )
    for number, (rows, format_, body, stop) in enumerate(rounds):
        index = first[rows] + number
        units.format[index] = format_
        units.start[index] = body
        units.end[index] = stop
    return units
