"""Holes in a load: what was sent and is nowhere, and how long that lasted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.drill.sendlog import SendLog
from appliance.drill.streams import I64

MS = 1e6
"""ns"""


@dataclass(frozen=True, slots=True)
class Hole:
    """Consecutive datagrams that are nowhere."""

    first: int
    """Number of the first lost datagram, in the load."""
    datagrams: int
    gap_ms: float
    """From sending the first lost to sending the first after the hole."""
    open: bool
    """Whether it lasts to the end of the load; then the gap does, too."""
    after_event_ms: float | None
    """From the event to sending the first lost datagram; negative: before."""


def find_holes(log: SendLog, lost: NDArray[np.bool_], event_ns: int | None) -> list[Hole]:
    """All holes, in the order of sending. ``lost``: of each datagram of the load."""
    edges = np.diff(np.concatenate(([False], lost, [False])).astype(np.int8))
    firsts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    times, wall = log.sent_monotonic_ns, log.sent_wall_ns
    return [
        Hole(
            first=first,
            datagrams=end - first,
            gap_ms=round(float(times[min(end, len(times) - 1)] - times[first]) / MS, 3),
            open=end == len(times),
            after_event_ms=None if event_ns is None else _ms(int(wall[first]) - event_ns),
        )
        for first, end in zip(firsts.tolist(), ends.tolist(), strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Takeover:
    """The nodes that stored a load before and after an event; ms are counted from the event."""

    old: str
    """The node that has the last datagram before the event."""
    last_on_old_ms: float
    """When the last datagram was sent that it has from before the other node's first."""
    new: str | None = None
    """The first other node that has one from after the event; None: all stayed where it was."""
    first_sent_ms: float | None = None
    """When the first datagram was sent that the new node has."""
    first_received_ms: float | None = None
    """When it arrived there."""


def find_takeover(
    log: SendLog, received: dict[str, tuple[I64, I64]], event_ns: int
) -> Takeover | None:
    """Who took over; None if no node has anything from before the event.

    ``received``: of each node the numbers of the datagrams it has, ascending, and when they came.
    """
    wall = log.sent_wall_ns
    event = int(np.searchsorted(wall, event_ns, side="right"))
    before = {name: had[had < event] for name, (had, _) in received.items()}
    last = {name: int(had[-1]) for name, had in before.items() if len(had)}
    if not last:
        return None
    old = max(last, key=lambda name: last[name])
    new, first = None, log.sent
    for name, (had, _) in received.items():
        at = int(np.searchsorted(had, event))
        if name != old and at < len(had) and had[at] < first:
            new, first = name, int(had[at])
    of_old = received[old][0]
    last_on_old = int(of_old[of_old < first][-1])
    if new is None:
        return Takeover(old, _ms(int(wall[last_on_old]) - event_ns))
    had, times = received[new]
    return Takeover(
        old=old,
        last_on_old_ms=_ms(int(wall[last_on_old]) - event_ns),
        new=new,
        first_sent_ms=_ms(int(wall[first]) - event_ns),
        first_received_ms=_ms(int(times[np.searchsorted(had, first)]) - event_ns),
    )


def _ms(ns: int) -> float:
    return round(ns / MS, 3)
