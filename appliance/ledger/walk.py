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
MAX_GAPS = 32
"""Gaps remembered for a source; what fills an older one counts as a duplicate."""
RUN = 8
"""Duplicates in a row, each continuing the last, that are a restart instead."""
STREAK = 6
"""Breaks in a row that another convention explains, before the source is said to use it."""


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
class Trouble:
    """What is remembered of a source whose order has ever been broken."""

    gaps: list[tuple[int, int]] = field(default_factory=list)
    """Numbers not seen, unwrapped, ``[first, end)``, oldest first."""
    totals: Totals = field(default_factory=Totals)
    candidate: tuple[int, int, bool] | None = None
    """Start, units and vagueness of the last datagram, if it may be the first of a restart."""
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
            return self._restart_at(start, step, vague)
        ahead = _signed(start - self.position)
        if trouble.candidate is not None:
            ahead = self._decide(start, ahead)
        if 0 <= ahead <= MAX_GAP and (ahead == 0 or self.vague or free):
            return self._accept(ahead, step, vague)
        if ahead > 0 and self._plausible(ahead, start):
            trouble.gaps = [*trouble.gaps, (self.position, self.position + ahead)][-MAX_GAPS:]
            trouble.totals.lost += ahead
            return self._accept(ahead, step, vague)
        if ahead < 0 and (self._plausible(ahead, start) or self._gap(self.position + ahead)):
            return self._late(self.position + ahead, step, vague)
        trouble.candidate = (start, step, vague)
        trouble.run = 0
        return False

    def _accept(self, ahead: int, step: int, vague: bool) -> bool:
        self.position += ahead + step
        self.vague = vague
        self.trouble.run = 0
        return True

    def _restart_at(self, start: int, step: int, vague: bool) -> bool:
        """Begin the numbering anew."""
        self.floor, self.position, self.vague = start, start + step, vague
        self.trouble.gaps = []
        self.trouble.run = 0
        return True

    def _plausible(self, ahead: int, start: int) -> bool:
        """Whether the same numbering can have moved by ``ahead`` units, to ``start``."""
        if ahead < 0:
            return ahead >= -self.horizon
        # a long jump over the wrap that ends just after 0 is rather an exporter that began at 0
        over = start < self.position & MASK
        return ahead <= MAX_GAP and not (
            over and start < self.horizon and ahead > 64 * self.horizon
        )

    def _decide(self, start: int, ahead: int) -> int:
        """Restart or stray: what the datagram before was, now that one at ``start`` has come.

        ``ahead`` and the result are relative to the position, before and after the decision.
        """
        trouble = self.trouble
        assert trouble.candidate is not None
        first, step, vague = trouble.candidate
        trouble.candidate = None
        anew = _signed(start - first - step)
        old, new = self._plausible(ahead, start), -self.horizon <= anew <= MAX_GAP
        if ahead and new and (not old or abs(anew) < abs(ahead)):
            trouble.totals.restarts += 1
            self._restart_at(first, step, vague)
            return anew
        trouble.totals.reordered += 1
        return ahead

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
        self._restart_at(trouble.run_first & MASK, (end - trouble.run_first), False)
        return True

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
        for convention, fits in enumerate(explains):
            if convention == current or not fits:
                trouble.streak[convention] = 0
                continue
            if not trouble.streak[convention]:
                trouble.streak_totals[convention] = trouble.totals.copy()
            trouble.streak[convention] += 1
            if trouble.streak[convention] >= STREAK:
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
        trouble.candidate = None
        self.state["convention"][self.source] = convention
        self.state["last_sequence"][self.source] = sequence
        self.state["last_units"][self.source] = units
        step = 1 if convention is Convention.MESSAGES else units
        start = sequence - units if convention is Convention.THROUGH else sequence
        self._restart_at(start & MASK, step, False)
