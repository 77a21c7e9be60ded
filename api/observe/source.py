"""A thing that is looked at again and again, by a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds after which what was seen last is no longer taken for true."""


class Unavailable(Exception):  # noqa: N818 - says what is the matter
    """What was looked for is not there, or does not answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """The outcome of one look."""

    value: T | None
    problem: str
    time_ns: int


class Source(Generic[T]):
    """Keeps the newest outcome of ``look`` in memory.

    A look that hangs keeps nobody waiting: what it saw before grows old, and is then unknown.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[], T],
        period: float = 1.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._name = name
        self._look = look
        self._period = period
        self._clock = clock
        self._seen: Seen[T] = Seen(None, "not looked at yet", clock())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def seen(self) -> Seen[T]:
        """What is known now; no value, with the reason, where nothing is."""
        seen = self._seen
        age = (self._clock() - seen.time_ns) / 1e9
        if age > PATIENCE:
            return Seen(None, f"{self._name}: no answer for {age:.0f} s", seen.time_ns)
        return seen

    @property
    def failed(self) -> bool:
        """Whether there was an answer, and it was that the thing is not there."""
        seen = self.seen
        return seen is self._seen and seen.value is None and seen.problem != "not looked at yet"

    def refresh(self) -> None:
        """Look now."""
        try:
            self._seen = Seen(self._look(), "", self._clock())
        except Exception as error:
            # whatever it is: a thing that cannot be looked at must not end the looking
            reason = str(error) if isinstance(error, Unavailable) else _words(error)
            self._seen = Seen(None, reason, self._clock())

    def start(self) -> None:
        """Begin to look each period."""
        self._thread.start()

    def stop(self) -> None:
        """End; a look that hangs is left behind."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        while True:
            self.refresh()
            if self._stop.wait(self._period):
                return


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
