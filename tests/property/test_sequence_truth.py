"""The sequence tracker against simulated exporters, whose truth is known."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.ledger.sequence import SequenceTracker

CALM = 10
"""Datagrams at the start of each life of an exporter that arrive undisturbed."""


@dataclass
class Truth:
    """What the network and the exporter did."""

    received: int = 0
    lost: int = 0
    duplicates: int = 0
    reordered: int = 0
    restarts: int = 0


@dataclass
class Exporter:
    """One exporter's lives: what it sends, what arrives, and the truth about both."""

    chance: random.Random
    loss: float
    duplication: float
    delay: float
    truth: Truth = field(default_factory=Truth)
    arrivals: list[tuple[int, int]] = field(default_factory=list, repr=False)
    ends: list[int] = field(default_factory=list)

    def live(self, start: int, count: int, largest: int) -> None:
        """Send ``count`` datagrams of 1 to ``largest`` units from ``start``."""
        sent: list[tuple[int, int]] = []
        for _ in range(count):
            units = self.chance.randint(1, largest)
            sent.append((start, units))
            start += units
        # (time of arrival, number of the datagram)
        arriving: list[tuple[float, int]] = []
        for i in range(count):
            calm = i < CALM or i == count - 1
            if not calm and self.chance.random() < self.loss:
                continue
            late = not calm and i < count - 12 and self.chance.random() < self.delay
            arriving.append((i + (self.chance.uniform(1, 10) if late else 0), i))
            if i >= CALM and i < count - 12 and self.chance.random() < self.duplication:
                arriving.append((arriving[-1][0] + self.chance.uniform(0.001, 10), i))
        arriving.sort()
        seen: set[int] = set()
        furthest = -1
        for _, i in arriving:
            self.truth.received += 1
            if i in seen:
                self.truth.duplicates += 1
            elif i < furthest:
                self.truth.reordered += 1
            seen.add(i)
            furthest = max(furthest, i)
            self.arrivals.append((sent[i][0] % 2**32, sent[i][1]))
        self.ends.append(start % 2**32)
        self.truth.lost += sum(units for i, (_, units) in enumerate(sent) if i not in seen)


@st.composite
def exporters(draw: st.DrawFn) -> Exporter:
    """Exporters with one to three lives, that number from anywhere, or from 0 after a restart."""
    exporter = Exporter(
        random.Random(draw(st.integers(0, 2**32))),
        loss=draw(st.sampled_from([0, 0.01, 0.2, 0.5])),
        duplication=draw(st.sampled_from([0, 0.02, 0.3])),
        delay=draw(st.sampled_from([0, 0.02, 0.3])),
    )
    largest = draw(st.sampled_from([1, 30, 100]))
    start = draw(st.sampled_from([0, 1, 2**31 - 700, 2**31, 2**32 - 3000, 2**32 - 1]))
    for life in range(draw(st.integers(1, 3))):
        if life:
            exporter.truth.restarts += 1
            start = draw(
                st.sampled_from([n for n in (0, 5, 2**30, 7 * 2**29) if clear(exporter, n)])
            )
        exporter.live(start, draw(st.integers(40, 120)), largest)
    return exporter


def clear(exporter: Exporter, start: int) -> bool:
    """Whether ``start`` cannot continue any of the numberings that ``exporter`` has had."""
    calm = not (exporter.loss or exporter.duplication or exporter.delay)
    for end in exporter.ends:
        behind = (end - start) % 2**32
        if 2**32 - behind <= 2**24 or not (behind > 256 * 100 or calm):
            return False
    return True


@settings(max_examples=50, deadline=None)
@given(
    st.lists(exporters(), min_size=1, max_size=3),
    st.sampled_from([1, 7, 400, 100_000]),
    st.randoms(use_true_random=False),
)
def test_the_tracker_finds_what_the_simulation_did(
    population: list[Exporter], batch: int, chance: random.Random
) -> None:
    # all exporters' arrivals, interleaved at random, each in its own order
    turns = [i for i, exporter in enumerate(population) for _ in exporter.arrivals]
    chance.shuffle(turns)
    queues = [iter(exporter.arrivals) for exporter in population]
    rows = np.array([(turn, *next(queues[turn])) for turn in turns], np.int64)
    tracker = SequenceTracker()
    found = [Truth() for _ in population]
    for i in range(0, len(rows), batch):
        part = rows[i : i + batch]
        change = tracker.track(part[:, 0], part[:, 1], part[:, 2])
        for j, source in enumerate(change.source.tolist()):
            for name in ("received", "lost", "duplicates", "reordered", "restarts"):
                total = getattr(found[source], name) + int(getattr(change, name)[j])
                setattr(found[source], name, total)
    assert found == [exporter.truth for exporter in population]


NUMBERS = st.integers(0, 2**32 - 1) | st.integers(0, 300) | st.integers(2**32 - 300, 2**32 - 1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-1, 2), st.just(-1) | NUMBERS, st.integers(-1, 40) | NUMBERS),
        max_size=200,
    ),
    st.sampled_from([1, 7, 400]),
)
def test_no_numbers_at_all_break_the_tracker(rows: list[tuple[int, int, int]], batch: int) -> None:
    tracker = SequenceTracker()
    lost = restarts = received = 0
    for i in range(0, len(rows), batch):
        part = np.array(rows[i : i + batch], np.int64).reshape(-1, 3)
        change = tracker.track(part[:, 0], part[:, 1], part[:, 2])
        received += int(change.received.sum())
        lost += int(change.lost.sum())
        restarts += int(change.restarts.sum())
    assert received == sum(source >= 0 and number >= 0 for source, number, _ in rows)
    assert lost >= 0
    assert restarts >= 0
    tracker.load(tracker.dump())
