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
    lying, missing, over = (np.zeros(n, np.bool_) for _ in range(3))
    rounds: list[_Round] = []
    # of those that go on: their numbers, where they are, where they end, what they declare
    active = np.flatnonzero(declared)
    pos, stop, count = start[active], end[active], declared[active]
    for number in range(limit):
        body = pos + 8
        fits = body <= stop
        if not fits.all():
            missing[active[~fits]] = True
            stopped[active[~fits]] = pos[~fits]
            active, body, stop, count = active[fits], body[fits], stop[fits], count[fits]
        if not len(active):
            break
        head = block(buffer, body - 8, 8).view(">u4")
        length = head[:, 1].astype(np.int64)
        claimed = body + length
        value_end = np.minimum(claimed, stop)
        rounds.append((active, head[:, 0], body, value_end))
        # XDR rounds opaque data up to four bytes (RFC 4506, section 4.10)
        pos = np.minimum(claimed + (-length & 3), stop)
        more = count > number + 1
        short = value_end < claimed
        if short.any():
            lying[active[short]] = True
            more &= ~short
        found[active] = number + 1
        left = np.count_nonzero(more)
        if left < len(active):
            stopped[active] = pos
            if not left:
                break
            active, pos, stop, count = active[more], pos[more], stop[more], count[more]
    else:
        stopped[active] = pos
        over[active] = pos + 8 <= stop
    owner, format_, first, last = _in_order(rounds, found)
    return Units(owner, format_, first, last, found, stopped, lying, missing, over)


_Round = tuple[I64, NDArray[np.uint32], I64, I64]
"""Enclosing units, and of the unit that each has in this round: format, start, end."""


def _in_order(rounds: list[_Round], found: I64) -> _Round:
    """The units of all rounds, sorted by enclosing unit; ``found`` units each."""
    n = len(found)
    if len(rounds) == 1 and len(rounds[0][0]) == n:
        owner, format_, start, end = rounds[0]
        return owner, format_.astype(np.uint32), start, end
    before = np.cumsum(found)
    total = int(before[-1]) if n else 0
    before -= found
    formats = np.empty(total, np.uint32)
    starts, ends = np.empty(total, np.int64), np.empty(total, np.int64)
    for number, (rows, format_, start, end) in enumerate(rounds):
        index = before[rows] + number
        formats[index], starts[index], ends[index] = format_, start, end
    return np.repeat(np.arange(n), found), formats, starts, ends
