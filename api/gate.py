"""Slow work, a bounded number at a time and for a bounded time, off the event loop.

Health checks are answered by the loop itself, so whatever queries do, they are not kept waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TypeVar

from api.problems import Problem

T = TypeVar("T")

_GRACE_SECONDS = 2.0
"""The work ends itself in time; this is for what cannot be interrupted at once."""


_QUEUE = 16
"""Calls that may wait for their turn, for each that runs."""


class Gate:
    """Runs at most ``width`` calls at once; some others wait their turn, up to ``seconds``."""

    def __init__(self, name: str, width: int, seconds: float) -> None:
        self._seconds = seconds
        self._free = asyncio.Semaphore(width)
        self._waiting = 0
        self._most = width * _QUEUE
        self._pool = ThreadPoolExecutor(width, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """``work()`` in a thread, which is expected to end within ``seconds``.

        Raises a problem if there is no turn in time, or no result. A turn is given back only when
        the work has really ended.
        """
        await self._turn()
        task = asyncio.get_running_loop().run_in_executor(self._pool, work)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.wait_for(asyncio.shield(task), self._seconds + _GRACE_SECONDS)
        except TimeoutError:
            raise too_slow(self._seconds) from None

    async def _turn(self) -> None:
        if not self._free.locked():
            await self._free.acquire()  # at once
            return
        if self._waiting >= self._most:
            raise self._busy(f"{self._waiting} other queries wait already")
        self._waiting += 1
        try:
            await asyncio.wait_for(self._free.acquire(), self._seconds)
        except TimeoutError:
            raise self._busy(f"no turn within {self._seconds:g} s") from None
        finally:
            self._waiting -= 1

    def _busy(self, detail: str) -> Problem:
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "busy",
            "Too many queries",
            detail,
            headers={"Retry-After": str(max(1, round(self._seconds)))},
        )

    def _ended(self, task: asyncio.Future[T]) -> None:
        self._free.release()
        if not task.cancelled():
            task.exception()  # seen: nobody may be waiting for it any more

    def close(self) -> None:
        """Let no further work begin."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def too_slow(seconds: float) -> Problem:
    """The problem of a query that was ended."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "query-timeout",
        "The query took too long",
        f"ended after {seconds:g} s; ask for a shorter time range or a narrower filter, or raise "
        "api.query_seconds",
    )
