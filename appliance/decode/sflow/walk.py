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
    stopped = start.copy()
    found = np.zeros(n, np.int64)
    lying, missing = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    rounds: list[tuple[I64, NDArray[np.uint32], I64, I64]] = []
    # of those that go on: their numbers, where they are, where they end, what they declare
    active = np.flatnonzero(declared)
    pos, stop, count = start[active], end[active], declared[active]
    for number in range(limit):
        body = pos + 8
        fits = body <= stop
        if not fits.all():
            missing[active[~fits]] = True
            stopped[active[~fits]] = pos[~fits]
            active, pos, stop, count = active[fits], pos[fits], stop[fits], count[fits]
            body = pos + 8
        if not len(active):
            break
        head = block(buffer, body - 8, 8).view(">u4")
        length = head[:, 1].astype(np.int64)
        value_end = np.minimum(body + length, stop)
        rounds.append((active, head[:, 0], body, value_end))
        # XDR rounds opaque data up to four bytes (RFC 4506, section 4.10)
        pos = np.minimum(body + (length + 3 & ~3), stop)
        more = count > number + 1
        short = value_end - body < length
        if short.any():
            lying[active[short]] = True
            more &= ~short
        found[active] = number + 1
        if not more.all():
            stopped[active[~more]] = pos[~more]
            active, pos, stop, count = active[more], pos[more], stop[more], count[more]
    over = np.zeros(n, np.bool_)
    over[active] = pos + 8 <= stop
    stopped[active] = pos

    first = np.cumsum(found) - found
    total = int(found.sum())
    units = Units(
        np.repeat(np.arange(n), found),
        np.empty(total, np.uint32),
        np.empty(total, np.int64),
        np.empty(total, np.int64),
        found,
        stopped,
        lying,
        missing,
        over,
    )
    for number, (rows, format_, body, value_end) in enumerate(rounds):
        index = first[rows] + number
        units.format[index] = format_
        units.start[index] = body
        units.end[index] = value_end
    return units
