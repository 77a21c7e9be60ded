"""Token buckets: so many at once, and so many a second from then on."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MOST: Final = 4096
"""Buckets of a kind that are kept."""


class Buckets:
    """A bucket for each key; those not used for longest are forgotten, which fills them again."""

    def __init__(
        self,
        rate: float,
        burst: float,
        most: int = MOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``rate``: a second; ``burst``: at once."""
        self._rate = rate
        self._burst = burst
        self._most = most
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take one; the seconds until there is one again, 0 when it was taken."""
        now = self._clock()
        level, seen = self._levels.pop(key, (self._burst, now))
        level = min(self._burst, level + (now - seen) * self._rate)
        taken = level >= 1
        self._levels[key] = (level - taken, now)
        if len(self._levels) > self._most:
            self._levels.popitem(last=False)
        return 0.0 if taken else (1 - level) / self._rate
