"""Datagrams that wait for templates: bounds, and a log that is all that a restart needs."""

from __future__ import annotations

import random

import pytest

from appliance.decode.hold import HeldDatagram, HoldQueue
from appliance.decode.limits import Limits

LIMITS = Limits(held_bytes=60_000, held_bytes_per_exporter=20_000, held_ns=1000)


def held(number: int, exporter: int, keys: list[int], session: int = 0) -> HeldDatagram:
    sets = {key: bytes([key]) * (100 + number % 50) for key in keys}
    address = exporter.to_bytes(16, "big")
    return HeldDatagram(exporter, exporter, number, address, 2055, b"header", sets, session)


def content(queue: HoldQueue) -> list[tuple[int, int, bytes, dict[int, bytes]]]:
    return [(h.exporter, h.received_ns, h.address, h.sets) for h in queue._held.values()]


@pytest.mark.parametrize("seed", range(20))
def test_the_frames_of_a_queue_give_the_queue_whatever_came_and_went(seed: int) -> None:
    chance = random.Random(seed)
    queue = HoldQueue(LIMITS)
    frames = b""
    for now in range(400):
        action = chance.random()
        if action < 0.7:
            keys = chance.sample(range(1, 30), chance.randint(1, 3))
            queue.add(held(now, chance.randint(1, 6), keys))
        elif action < 0.9:
            queue.take(queue.find([chance.randint(1, 30)]))
        else:
            queue.expire(now + chance.randint(0, 900))
        if chance.random() < 0.2:
            frames += queue.dump()
        if chance.random() < 0.02:
            frames = queue.dump(everything=True)
        if chance.random() < 0.05:
            frames += queue.dump()
            again = HoldQueue(LIMITS)
            again.load(frames)
            assert content(again) == content(queue)
            assert again.size == queue.size
            queue = again
    assert frames


def test_what_waits_in_a_session_outlives_a_restart_and_ends_with_the_session() -> None:
    queue = HoldQueue(LIMITS)
    queue.add(held(1, 1, [5], session=9))
    queue.add(held(2, 2, [5]))
    frames = queue.dump()
    again = HoldQueue(LIMITS)
    again.load(frames)
    assert content(again) == content(queue)
    assert again.sessions() == {9}
    again.end_session(9)
    assert len(again) == 1
    assert again.take_counts()[0] == {1: 1}
    # the log says so, too: nothing is given up twice
    third = HoldQueue(LIMITS)
    third.load(frames + again.dump())
    assert third.take_counts()[0] == {}
    assert content(third) == content(again)


def test_one_exporter_keeps_its_oldest_and_all_together_their_newest() -> None:
    queue = HoldQueue(LIMITS)
    for number in range(200):
        queue.add(held(number, 1, [1]))
    assert [h[1] for h in content(queue)] == list(range(len(queue)))
    assert queue.size <= LIMITS.held_bytes_per_exporter
    for number in range(200, 600):
        queue.add(held(number, 2 + number % 7, [1]))
    assert queue.size <= LIMITS.held_bytes
    assert content(queue)[-1][1] == 599
    assert 1 not in {h[0] for h in content(queue)}
    total = len(queue) + sum(queue.take_counts()[1].values())
    assert total == 600


def test_a_damaged_log_is_refused() -> None:
    queue = HoldQueue(LIMITS)
    queue.add(held(1, 1, [5]))
    frame = bytearray(queue.dump())
    frame[-1] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        HoldQueue(LIMITS).load(bytes(frame))
    with pytest.raises(ValueError, match="cut short"):
        HoldQueue(LIMITS).load(bytes(frame[:5]))
