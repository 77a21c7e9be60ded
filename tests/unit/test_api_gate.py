from __future__ import annotations

import asyncio
import threading

import pytest

from api.gate import Gate
from api.problems import Problem


def nothing() -> None:
    pass


def test_a_result_passes() -> None:
    async def run() -> int:
        return await Gate("t", 1, 1).run(lambda: 5, nothing)

    assert asyncio.run(run()) == 5


def test_work_that_takes_too_long_is_interrupted() -> None:
    interrupted = threading.Event()

    async def run() -> None:
        await Gate("t", 1, 0.05).run(interrupted.wait, interrupted.set)

    with pytest.raises(Problem) as caught:
        asyncio.run(run())
    assert caught.value.kind == "query-timeout"
    assert interrupted.is_set()


def test_no_more_work_runs_at_once_than_allowed_and_a_late_comer_is_told() -> None:
    release = threading.Event()

    async def run() -> None:
        gate = Gate("t", 1, 0.1)
        first = asyncio.create_task(gate.run(release.wait, nothing))
        await asyncio.sleep(0.02)
        with pytest.raises(Problem) as caught:
            await gate.run(nothing, nothing)
        assert caught.value.kind == "busy"
        assert "Retry-After" in caught.value.headers
        release.set()
        with pytest.raises(Problem):
            await first  # its own time was over meanwhile
        assert await gate.run(lambda: 7, nothing) == 7

    asyncio.run(run())


def test_a_client_that_goes_away_ends_its_query() -> None:
    interrupted = threading.Event()

    async def run() -> None:
        gate = Gate("t", 1, 10)
        task = asyncio.create_task(gate.run(lambda: interrupted.wait(5), interrupted.set))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert interrupted.is_set()


def test_an_error_of_the_work_reaches_the_caller_and_the_turn_is_free_again() -> None:
    def fail() -> None:
        raise RuntimeError("x")

    async def run() -> int:
        gate = Gate("t", 1, 1)
        with pytest.raises(RuntimeError):
            await gate.run(fail, nothing)
        return await gate.run(lambda: 1, nothing)

    assert asyncio.run(run()) == 1
