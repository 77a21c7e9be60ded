"""The slow path of the sequence tracker: one source whose order breaks, datagram by datagram."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.ledger.numbering import MASK, MAX_GAP, Convention, Events

WINDOW = 256
"""How many datagrams late a datagram can be and still be told from a restart."""
MAX_PARKED = 8
"""Numberings kept of a source beside the one that is followed."""
MAX_GAPS = 32
"""Gaps remembered for a source; what fills an older one counts as a duplicate."""
RUN = 8
"""Duplicates in a row, each continuing the last, that are a restart instead; and how many datagrams
late a numbering can go on that was left."""
STREAK = 6
"""Breaks in a row that another convention explains, before the source is said to use it."""
NEW_STREAK = 3
"""The same while nothing speaks for the convention that the source is said to use."""


@dataclass(slots=True)
class Totals:
    """What has been found of one source, in the tracker's own life."""

    lost: int = 0
    duplicates: int = 0
    reordered: int = 0
    restarts: int = 0

    def copy(self) -> Totals:
        """The same figures, to come back to."""
        return Totals(self.lost, self.duplicates, self.reordered, self.restarts)


@dataclass(slots=True)
class Stream:
    """A numbering that is not followed now, and what its end was taken for.

    If it goes on after all, that is taken back: a stray's ``reordered``, or the ``lost`` units or
    the restart that another numbering seemed to prove.
    """

    position: int
    floor: int
    vague: bool
    gaps: list[tuple[int, int]] = field(default_factory=list)
    lost: int = 0
    reordered: int = 0
    restarts: int = 0


@dataclass(slots=True)
class Trouble:
    """What is remembered of a source whose order has ever been broken."""

    gaps: list[tuple[int, int]] = field(default_factory=list)
    """Numbers not seen, unwrapped, ``[first, end)``, oldest first."""
    totals: Totals = field(default_factory=Totals)
    parked: list[Stream] = field(default_factory=list)
    """Numberings that may yet go on, latest last."""
    run: int = 0
    """Duplicates in a row so far, and where the run started and would go on."""
    run_first: int = 0
    run_next: int = 0
    run_totals: Totals = field(default_factory=Totals)
    streak: list[int] = field(default_factory=lambda: [0, 0, 0])
    streak_totals: list[Totals] = field(default_factory=lambda: [Totals() for _ in Convention])


def _signed(value: int) -> int:
    """``value`` modulo 2**32 as a signed 32-bit number."""
    return ((value + 0x80000000) & MASK) - 0x80000000


class Walk:
    """One source's datagrams of one batch; counts into ``trouble.totals``."""

    def __init__(self, state: dict[str, NDArray[Any]], source: int, trouble: Trouble) -> None:
        self.state, self.source, self.trouble = state, source, trouble
        self.position = int(state["position"][source])
        self.floor = int(state["floor"][source])
        self.vague = bool(state["vague"][source])
        self.horizon = WINDOW * int(state["largest"][source])

    def run(self, events: Events, first: int, last: int) -> None:
        """Follow the datagrams ``first`` to ``last`` of ``events``; all are of this source."""
        while (rest := self._follow(events, first, last)) <= last:
            # the convention has changed: look at the others again, as it has them
            self._save()
            others = slice(rest, last + 1)
            events = Events(
                self.state,
                events.source[others],
                events.sequence[others],
                events.units[others],
                np.zeros(1, np.int64),
            )
            first, last = 0, last - rest
        self._save()

    def _save(self) -> None:
        self.state["position"][self.source] = self.position
        self.state["floor"][self.source] = self.floor
        self.state["vague"][self.source] = self.vague

    def _follow(self, events: Events, first: int, last: int) -> int:
        """Follow until ``last``, or until a new convention is learnt; where to go on."""
        breaks = (np.flatnonzero(~events.ordered[first : last + 1]) + first).tolist()
        i = first
        while i <= last:
            if not events.ordered[i] and self._learn(events, i, first):
                return i + 1
            start, step = int(events.start[i]), int(events.step[i])
            vague = bool(events.vague[i])
            if not self._datagram(start, step, vague, bool(events.free[i])):
                i += 1
                continue
            # back in order: pass over all that continues it
            following = bisect_right(breaks, i)
            i = breaks[following] if following < len(breaks) else last + 1
            self.position += (int(events.end[i - 1]) - self.position) & MASK
            self.vague = bool(events.vague[i - 1])
        return i

    def _datagram(self, start: int, step: int, vague: bool, free: bool) -> bool:
        """Account for one datagram; whether the numbering goes on from its end."""
        trouble = self.trouble
        if self.position < 0:
            return self._begin(start, step, vague)
        ahead = _signed(start - self.position)
        if ahead and trouble.parked:
            ahead = self._nearest(start, ahead)
        if 0 <= ahead <= MAX_GAP and (ahead == 0 or self.vague or free):
            return self._accept(ahead, step, vague)
        if 0 < ahead <= self.horizon:
            trouble.gaps = [*trouble.gaps, (self.position, self.position + ahead)][-MAX_GAPS:]
            trouble.totals.lost += ahead
            return self._accept(ahead, step, vague)
        if ahead < 0 and (ahead >= -self.horizon or self._gap(self.position + ahead)):
            return self._late(self.position + ahead, step, vague)
        trouble.totals.reordered += 1
        self._park(Stream(start + step, start, vague, reordered=1))
        return False

    def _accept(self, ahead: int, step: int, vague: bool) -> bool:
        self.position += ahead + step
        self.vague = vague
        self.trouble.run = 0
        return True

    def _begin(self, start: int, step: int, vague: bool) -> bool:
        """Begin the numbering anew."""
        self.floor, self.position, self.vague = start, start + step, vague
        self.trouble.gaps = []
        self.trouble.run = 0
        return True

    def _park(self, stream: Stream) -> None:
        self.trouble.parked = [*self.trouble.parked, stream][-MAX_PARKED:]
        self.trouble.run = 0

    def _nearest(self, start: int, ahead: int) -> int:
        """Follow the numbering that ``start`` fits best; how far ahead of its position it is.

        ``ahead``: the same of the one that is followed now.
        """
        parked = self.trouble.parked
        distances = [_signed(start - stream.position) for stream in parked]
        best = min(range(len(parked)), key=lambda i: abs(distances[i]))
        late = RUN * self.horizon // WINDOW
        if abs(distances[best]) >= abs(ahead) or not -late <= distances[best] <= self.horizon:
            return ahead
        self._follow_instead(parked.pop(best))
        return _signed(start - self.position)

    def _follow_instead(self, stream: Stream) -> None:
        """Park the numbering that is followed now, and go on with ``stream``."""
        totals = self.trouble.totals
        left = Stream(self.position, self.floor, self.vague, self.trouble.gaps)
        if stream.reordered:
            # the second datagram of a new numbering: the first was no stray; what the new one is
            # about to run over could not be told from it
            self.trouble.parked = [
                p
                for p in self.trouble.parked
                if not 0 <= _signed(p.position - stream.floor) <= self.horizon
            ]
            if self._is_loss(stream.floor):
                left.lost = _signed(stream.floor - self.position)
            else:
                left.restarts = 1
        totals.lost += left.lost - stream.lost
        totals.reordered -= stream.reordered
        totals.restarts += left.restarts - stream.restarts
        self._park(left)
        self.position, self.floor, self.vague = stream.position, stream.floor, stream.vague
        self.trouble.gaps = stream.gaps

    def _is_loss(self, start: int) -> bool:
        """Whether the numbering can have come to ``start`` by loss, rather than by a restart."""
        ahead = _signed(start - self.position)
        # a long jump over the wrap that ends just after 0 is an exporter that began at 0
        over = start < self.position & MASK
        return 0 < ahead <= MAX_GAP and not (
            over and start < self.horizon and ahead > 64 * self.horizon
        )

    def _gap(self, number: int) -> bool:
        return any(first <= number < end for first, end in self.trouble.gaps)

    def _fill(self, first: int, end: int) -> int:
        """Take ``[first, end)`` out of the gaps; how many units that were lost are not."""
        gaps: list[tuple[int, int]] = []
        filled = 0
        for a, b in self.trouble.gaps:
            low, high = max(a, first), min(b, end)
            if low >= high:
                gaps.append((a, b))
                continue
            filled += high - low
            gaps += [piece for piece in ((a, low), (high, b)) if piece[0] < piece[1]]
        self.trouble.gaps = gaps[-MAX_GAPS:]
        return filled

    def _late(self, first: int, step: int, vague: bool) -> bool:
        """A datagram that starts before the position, at ``first`` (unwrapped)."""
        trouble, totals = self.trouble, self.trouble.totals
        if vague:
            # it may fill all that is left of its gap: claim no loss that is not certain
            end = max((b for a, b in trouble.gaps if a <= first < b), default=first)
        else:
            end = first + step
        filled = self._fill(first, end)
        totals.lost -= filled
        if end > self.position:
            self.position, self.vague, trouble.run = end, vague, 0
            return True
        continues = trouble.run > 0 and first == trouble.run_next
        if filled or first == end:
            # without units of its own, a datagram cannot be told from another at its place
            totals.reordered += 1
            trouble.run = trouble.run if continues else 0
            trouble.run_next = end
            return False
        if not continues:
            trouble.run, trouble.run_first, trouble.run_totals = 0, first, totals.copy()
        trouble.run += 1
        trouble.run_next = end
        if first < self.floor:
            totals.reordered += 1
        else:
            totals.duplicates += 1
        if trouble.run < RUN:
            return False
        trouble.totals = trouble.run_totals
        trouble.totals.restarts += 1
        return self._begin(trouble.run_first & MASK, end - trouble.run_first, False)

    def _learn(self, events: Events, i: int, first: int) -> bool:
        """Whether the break at ``i`` is the last proof needed that the convention is another."""
        before = int(events.sequence[i - 1]) if i > first else int(self._last("sequence"))
        units_before = int(events.units[i - 1]) if i > first else int(self._last("units"))
        sequence, units = int(events.sequence[i]), int(events.units[i])
        if before < 0 or units_before < 0 or units < 0:
            return False
        step = (sequence - before) & MASK
        explains = (
            step == units_before,
            step == units and units != units_before,
            step == 1 and units_before != 1,
        )
        trouble = self.trouble
        current = int(self.state["convention"][self.source])
        enough = STREAK if self.state["proven"][self.source] else NEW_STREAK
        for convention, fits in enumerate(explains):
            if convention == current or not fits:
                trouble.streak[convention] = 0
                continue
            if not trouble.streak[convention]:
                trouble.streak_totals[convention] = trouble.totals.copy()
            trouble.streak[convention] += 1
            if trouble.streak[convention] >= enough:
                self._adopt(Convention(convention), sequence, units)
                return True
        return False

    def _last(self, what: str) -> int:
        return int(self.state[f"last_{what}"][self.source])

    def _adopt(self, convention: Convention, sequence: int, units: int) -> None:
        """Go on from this datagram by ``convention``; forget what the other one claimed."""
        trouble = self.trouble
        trouble.totals = trouble.streak_totals[convention]
        trouble.streak = [0] * len(Convention)
        trouble.parked = []
        self.state["convention"][self.source] = convention
        self.state["proven"][self.source] = False
        self.state["last_sequence"][self.source] = sequence
        self.state["last_units"][self.source] = units
        step = 1 if convention is Convention.MESSAGES else units
        start = sequence - units if convention is Convention.THROUGH else sequence
        self._begin(start & MASK, step, False)
