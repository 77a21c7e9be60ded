"""What exporters' sequence numbers stand for, and whole batches of them in order or not."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

MASK = 0xFFFFFFFF
MAX_GAP = 1 << 24
"""A jump of more units is not loss but another numbering: 28 minutes of 10,000 flows/s."""


class Convention(IntEnum):
    """What an exporter's number stands for."""

    BEFORE = 0
    """Units sent before this datagram: as the standards say."""
    THROUGH = 1
    """Units sent including those of this datagram."""
    MESSAGES = 2
    """Datagrams sent, whatever the protocol should count."""


class Events:
    """The datagrams of one call, grouped by source, with each source's convention applied.

    Arrays of ``n``: ``start``, ``end`` (32 bits), ``step`` (units), ``vague`` (units not known),
    ``free`` (start not known), ``ordered`` (starts where the one before, of its source, ended).
    """

    def __init__(
        self, state: dict[str, NDArray[Any]], source: I64, sequence: I64, units: I64, first: I64
    ) -> None:
        self.source, self.sequence, self.units = source, sequence, units
        convention = state["convention"][source]
        self.start = sequence
        self.step = np.maximum(units, 0)
        self.vague: Bools = units < 0
        self.free: Bools = np.zeros(len(source), np.bool_)
        if convention.any():
            messages = convention == Convention.MESSAGES
            through = convention == Convention.THROUGH
            self.step = np.where(messages, 1, self.step)
            self.start = np.where(through, (sequence - self.step) & MASK, sequence)
            self.free = through & self.vague
            self.vague = self.vague & (convention == Convention.BEFORE)
        self.end = (self.start + self.step) & MASK
        expected, open_ = np.empty_like(self.end), np.empty_like(self.vague)
        expected[1:], open_[1:] = self.end[:-1], self.vague[:-1]
        position = state["position"][source[first]]
        expected[first], open_[first] = position & MASK, state["vague"][source[first]]
        ahead = (self.start - expected) & MASK
        self.ordered: Bools = (ahead == 0) | ((open_ | self.free) & (ahead <= MAX_GAP))
        self.ordered[first] |= position < 0
