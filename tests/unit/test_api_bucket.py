from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from api.bucket import Buckets


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_then_so_many_a_second() -> None:
    clock = Clock()
    buckets = Buckets(rate=2, burst=3, clock=clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0, "everybody has a bucket of their own"
    clock.now += 0.5
    assert [buckets.take("a") for _ in range(2)] == [0, 0.5]
    clock.now += 1000
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5], "no more than full"


def test_memory_is_bounded_and_who_asks_on_is_not_forgotten() -> None:
    buckets = Buckets(rate=0.1, burst=1, most=10, clock=Clock())
    assert buckets.take("flood") == 0
    for n in range(1000):
        buckets.take(f"other {n}")
        assert buckets.take("flood") > 0
    assert len(buckets._levels) == 10


@given(st.lists(st.floats(0, 5), max_size=60), st.floats(0.1, 20), st.integers(1, 20))
def test_never_more_than_the_burst_and_the_rate(
    waits: list[float], rate: float, burst: int
) -> None:
    clock = Clock()
    buckets = Buckets(rate, burst, clock=clock)
    taken = 0
    for wait in waits:
        clock.now += wait
        seconds = buckets.take("a")
        taken += not seconds
        assert taken <= burst + sum(waits) * rate + 1e-6
        if seconds:
            clock.now += seconds + 1e-9
            assert buckets.take("a") == 0, "as it said"
            taken = 0
            buckets = Buckets(rate, burst, clock=clock)
