"""Sequence numbers: what a break of order means, and what it does not."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field

import numpy as np
import pytest

from appliance.ledger.numbering import MAX_GAP, Convention
from appliance.ledger.sequence import SequenceTracker
from appliance.ledger.walk import MAX_GAPS, MAX_PARKED, RUN, STREAK, WINDOW


@dataclass
class Sums:
    """What a tracker has found in all, of one source."""

    tracker: SequenceTracker = dataclass_field(default_factory=SequenceTracker)
    received: int = 0
    lost: int = 0
    duplicates: int = 0
    reordered: int = 0
    restarts: int = 0

    def feed(self, *datagrams: tuple[int, int], source: int = 0, batch: int = 10_000) -> Sums:
        """Track ``(sequence, units)`` pairs, ``batch`` at a time."""
        for i in range(0, len(datagrams), batch):
            part = np.array(datagrams[i : i + batch], np.int64)
            where = np.full(len(part), source)
            change = self.tracker.track(where, part[:, 0] % 2**32 - (part[:, 0] < 0), part[:, 1])
            for name in ("received", "lost", "duplicates", "reordered", "restarts"):
                setattr(self, name, getattr(self, name) + int(getattr(change, name).sum()))
        return self

    @property
    def found(self) -> dict[str, int]:
        """All that is not as it should be."""
        names = ("lost", "duplicates", "reordered", "restarts")
        return {n: getattr(self, n) for n in names if getattr(self, n)}


def stream(start: int, count: int, units: int = 1) -> list[tuple[int, int]]:
    """``count`` datagrams in order."""
    return [((start + i * units) % 2**32, units) for i in range(count)]


batches = pytest.mark.parametrize("batch", [1, 3, 10_000])


@batches
@pytest.mark.parametrize("units", [1, 30])
def test_datagrams_in_order_are_all_that_is_received(batch: int, units: int) -> None:
    sums = Sums().feed(*stream(1_000_000, 50, units), batch=batch)
    assert sums.received == 50
    assert sums.found == {}


@batches
@pytest.mark.parametrize("start", [2**32 - 60, 2**32 - 61, 2**32 - 1])
def test_the_32_bit_wrap_loses_nothing(batch: int, start: int) -> None:
    assert Sums().feed(*stream(start, 20, 30), batch=batch).found == {}


@batches
def test_a_missing_datagram_is_lost_by_its_units(batch: int) -> None:
    datagrams = stream(0, 20, 30)
    del datagrams[5:7], datagrams[10]
    assert Sums().feed(*datagrams, batch=batch).found == {"lost": 90}


@batches
def test_loss_across_the_wrap_is_counted_once(batch: int) -> None:
    datagrams = stream(2**32 - 100, 20, 10)
    del datagrams[8:12]
    assert Sums().feed(*datagrams, batch=batch).found == {"lost": 40}


@batches
def test_a_late_datagram_gives_back_what_was_counted_as_lost(batch: int) -> None:
    datagrams = stream(7, 20, 3)
    datagrams.insert(12, datagrams.pop(5))
    sums = Sums()
    sums.feed(*datagrams[:12], batch=batch)
    assert sums.lost == 3
    sums.feed(*datagrams[12:], batch=batch)
    assert sums.found == {"reordered": 1}


def test_late_datagrams_fill_the_middle_and_the_ends_of_a_gap() -> None:
    datagrams = stream(0, 10, 5)
    order = [0, 8, 4, 2, 6, 3, 9]
    sums = Sums().feed(*(datagrams[i] for i in order))
    # 1, 5 and 7 never came
    assert sums.found == {"lost": 15, "reordered": 4}


@batches
def test_a_duplicate_is_neither_loss_nor_a_restart(batch: int) -> None:
    datagrams = stream(100, 30, 2)
    for i in (25, 20, 20, 3):
        datagrams.insert(i + 1, datagrams[max(i - 4, 0)])
    assert Sums().feed(*datagrams, batch=batch).found == {"duplicates": 4}


@batches
def test_every_datagram_twice_is_all_duplicates(batch: int) -> None:
    datagrams = [d for d in stream(0, 100, 4) for _ in range(2)]
    assert Sums().feed(*datagrams, batch=batch).found == {"duplicates": 100}


@batches
@pytest.mark.parametrize("restart", [0, 17, 3_000_000_000])
def test_a_restart_of_the_exporter_is_counted_as_one_and_loses_nothing(
    batch: int, restart: int
) -> None:
    datagrams = stream(1_500_000_000, 20, 24) + stream(restart, 20, 24)
    assert Sums().feed(*datagrams, batch=batch).found == {"restarts": 1}


@batches
def test_loss_right_after_a_restart_is_still_seen(batch: int) -> None:
    datagrams = [*stream(1_500_000_000, 20), (0, 1), (3, 1), *stream(4, 5)]
    assert Sums().feed(*datagrams, batch=batch).found == {"restarts": 1, "lost": 2}


def test_an_exporter_that_restarts_beyond_half_the_range_lost_no_billions() -> None:
    datagrams = stream(3_000_000_000, 20) + stream(0, 20)
    assert Sums().feed(*datagrams).found == {"restarts": 1}


def test_a_restart_shortly_before_the_wrap_is_not_taken_for_a_long_loss() -> None:
    datagrams = stream(2**32 - MAX_GAP // 2, 20) + stream(0, 20)
    assert Sums().feed(*datagrams).found == {"restarts": 1}


@batches
def test_a_restart_soon_after_the_start_is_told_from_duplicates(batch: int) -> None:
    datagrams = stream(0, RUN + 5, 30)
    assert Sums().feed(*datagrams, *datagrams, batch=batch).found == {"restarts": 1}


@batches
def test_fewer_repeated_datagrams_are_duplicates(batch: int) -> None:
    datagrams = stream(0, RUN - 1, 30)
    sums = Sums().feed(*datagrams, *datagrams, ((RUN - 1) * 30, 30), batch=batch)
    assert sums.found == {"duplicates": RUN - 1}


def test_a_long_block_that_comes_late_is_reordered_not_a_restart() -> None:
    datagrams = stream(0, 60)
    late = datagrams[:10] + datagrams[40:50] + datagrams[10:40] + datagrams[50:]
    assert Sums().feed(*late).found == {"reordered": 30}


@batches
def test_a_stray_datagram_from_long_ago_does_not_move_the_numbering(batch: int) -> None:
    datagrams = stream(1_000_000, 20)
    datagrams.insert(10, (5, 1))
    sums = Sums().feed(*datagrams, batch=batch)
    assert (sums.lost, sums.restarts) == (0, 0)


def test_a_jump_too_long_for_loss_claims_none() -> None:
    datagrams = stream(0, 10) + stream(MAX_GAP + 100, 10)
    assert Sums().feed(*datagrams).found == {"restarts": 1}


def test_an_outage_within_the_bound_is_counted_in_full() -> None:
    datagrams = stream(0, 10) + stream(MAX_GAP, 10)
    assert Sums().feed(*datagrams).found == {"lost": MAX_GAP - 10}


@batches
def test_unknown_units_claim_no_loss(batch: int) -> None:
    datagrams = [(0, 10), (10, -1), (37, 3), (40, -1), (41, -1), (41, 5), (46, 1)]
    assert Sums().feed(*datagrams, batch=batch).found == {}


@batches
def test_loss_before_and_after_unknown_units_is_seen(batch: int) -> None:
    datagrams = [(0, 10), (15, -1), (37, 3), (42, 1)]
    assert Sums().feed(*datagrams, batch=batch).found == {"lost": 7}


def test_a_late_datagram_of_unknown_units_gives_back_the_rest_of_its_gap() -> None:
    datagrams = [(0, 10), (40, 10), (20, -1), (50, 1)]
    assert Sums().feed(*datagrams).found == {"lost": 10, "reordered": 1}


@batches
def test_datagrams_without_units_do_not_break_the_order(batch: int) -> None:
    datagrams = [(0, 0), (0, 4), (4, 0), (4, 0), (4, 2), (6, 0)]
    assert Sums().feed(*datagrams, batch=batch).found == {}


def test_unnumbered_datagrams_and_unknown_sources_are_passed_over() -> None:
    change = SequenceTracker().track(
        np.array([0, -1, 0, 0]), np.array([5, 9, -1, 6]), np.array([1, 1, -1, 1])
    )
    assert change.source.tolist() == [0]
    assert change.received.tolist() == [2]
    assert change.lost.tolist() == [0]


def test_sources_of_one_batch_do_not_mix() -> None:
    tracker = SequenceTracker()
    source = np.array([2, 7, 2, 7, 2, 7, 100])
    sequence = np.array([0, 500, 1, 530, 3, 560, 1])
    units = np.array([1, 30, 1, 30, 1, 30, 1])
    change = tracker.track(source, sequence, units)
    assert change.source.tolist() == [2, 7, 100]
    assert change.received.tolist() == [3, 3, 1]
    assert change.lost.tolist() == [1, 0, 0]


def through(units: list[int], start: int = 0) -> list[tuple[int, int]]:
    """Datagrams numbered as softflowd does for IPFIX: with their own records counted in."""
    ends = np.cumsum(units) + start
    return [(int(end) % 2**32, u) for end, u in zip(ends, units, strict=True)]


VARIED = [27, 28, 27, 8, 0, 27, 26, 1, 0, 13] * 6


@batches
def test_numbers_that_include_their_own_records_are_learnt_and_no_loss_remains(batch: int) -> None:
    sums = Sums().feed(*through(VARIED, 2**32 - 200), batch=batch)
    assert sums.found == {}
    assert sums.tracker.convention(0) is Convention.THROUGH


def test_a_new_exporter_needs_few_messages_to_be_understood() -> None:
    assert Sums().feed(*through([1, 20, 27, 8, 13])).found == {}


@batches
def test_numbers_that_count_messages_are_learnt_and_no_loss_remains(batch: int) -> None:
    datagrams = [(i, u) for i, u in enumerate(VARIED)]
    sums = Sums().feed(*datagrams, batch=batch)
    assert sums.found == {}
    assert sums.tracker.convention(0) is Convention.MESSAGES


@batches
@pytest.mark.parametrize("convention", [Convention.THROUGH, Convention.MESSAGES])
def test_loss_is_seen_by_the_convention_that_was_learnt(batch: int, convention: Convention) -> None:
    datagrams = through(VARIED) if convention is Convention.THROUGH else list(enumerate(VARIED))
    expected = datagrams[50][1] if convention is Convention.THROUGH else 1
    del datagrams[50]
    assert expected
    assert Sums().feed(*datagrams, batch=batch).found == {"lost": expected}


def test_a_lossy_exporter_that_follows_the_standard_is_believed() -> None:
    start = np.cumsum([0, *VARIED]).tolist()
    datagrams = list(zip(start, VARIED, strict=False))
    kept = [d for i, d in enumerate(datagrams) if i % 3]
    sums = Sums().feed(*kept)
    assert sums.tracker.convention(0) is Convention.BEFORE
    assert sums.lost == sum(u for i, u in enumerate(VARIED) if i % 3 == 0 and i)


def test_a_convention_learnt_by_mistake_is_unlearnt() -> None:
    sums = Sums().feed(*enumerate(VARIED))
    assert sums.tracker.convention(0) is Convention.MESSAGES
    start = (np.cumsum([0, *VARIED]) + 10_000_000).tolist()
    sums.feed(*zip(start, VARIED, strict=False))
    assert sums.tracker.convention(0) is Convention.BEFORE


@pytest.mark.parametrize("count", [STREAK, 3])
def test_gaps_and_numbering_survive_a_dump(count: int) -> None:
    datagrams = stream(1000, 40, 6)
    late = [datagrams.pop(10) for _ in range(count)]
    sums = Sums().feed(*datagrams[:20])
    sums.tracker, dumped = SequenceTracker(), sums.tracker.dump()
    sums.tracker.load(dumped)
    assert sums.lost == 6 * count
    sums.feed(*datagrams[20:], *late)
    assert sums.found == {"reordered": count}


def test_an_empty_tracker_survives_a_dump() -> None:
    tracker = SequenceTracker()
    tracker.load(SequenceTracker().dump())
    assert tracker.track(np.array([3]), np.array([1]), np.array([1])).received.tolist() == [1]


def test_what_is_remembered_of_a_lossy_source_is_bounded() -> None:
    sums = Sums().feed(*stream(0, 10_000)[::2])
    assert sums.lost == 4999
    assert len(sums.tracker._trouble[0].gaps) == MAX_GAPS


def test_lateness_beyond_the_window_is_no_duplicate() -> None:
    sums = Sums().feed(*stream(0, WINDOW + 50), (3, 1), *stream(WINDOW + 50, 3))
    assert (sums.duplicates, sums.restarts, sums.lost) == (0, 0, 0)


@batches
@pytest.mark.parametrize("other", [50, 999_000, 3_000_000_000])
@pytest.mark.parametrize("turns", [1, 2, 13])
def test_two_processes_with_one_domain_lose_nothing_by_it(
    batch: int, other: int, turns: int
) -> None:
    one, two = stream(1_000_000, 200, 3), stream(other, 200, 3)
    datagrams = []
    for i in range(0, 200, turns):
        datagrams += one[i : i + turns] + two[i : i + turns]
    sums = Sums().feed(*datagrams, batch=batch)
    assert sums.received == 400
    assert sums.found == {}


def test_loss_of_one_of_two_processes_is_seen() -> None:
    one, two = stream(1_000_000, 100, 3), stream(50, 100, 3)
    del one[60]
    datagrams = [d for pair in zip(one, two, strict=False) for d in pair]
    assert Sums().feed(*datagrams).found == {"lost": 3}


def test_a_block_that_arrives_long_after_it_was_lost_is_lost_no_more() -> None:
    datagrams = stream(0, 3000)
    sums = Sums().feed(*datagrams[:500], *datagrams[1500:2000])
    assert sums.found == {"lost": 1000}
    sums.feed(*datagrams[500:1500], *datagrams[2000:])
    assert sums.found == {}


def test_numberings_kept_of_a_source_are_bounded() -> None:
    sums = Sums().feed(*((i * 100_000_000, 1) for i in range(40)))
    assert len(sums.tracker._trouble[0].parked) == MAX_PARKED
    assert sums.lost == 0
