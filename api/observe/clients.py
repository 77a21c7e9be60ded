"""Programs that wait for the orders of drills, by the name that each gives itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

PATIENCE_NS: Final = 5 * 10**9
"""One that has not asked for so long is gone."""
_MOST: Final = 64


class Clients:
    """Those that ask this node; other nodes hear of them in its state."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._seen: dict[str, int] = {}

    def heard(self, name: str) -> None:
        """It has asked just now."""
        self._seen.pop(name, None)
        self._seen[name] = self._clock()
        while len(self._seen) > _MOST:
            del self._seen[next(iter(self._seen))]

    @property
    def seen(self) -> list[str]:
        """Those that are there."""
        since = self._clock() - PATIENCE_NS
        return sorted(name for name, at in self._seen.items() if at >= since)
