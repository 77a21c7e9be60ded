from __future__ import annotations

import asyncio
import threading

import pytest

from api import gate as gates
from api.gate import Gate
from api.problems import Problem


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_GRACE_SECONDS", 0.0)


def nothing() -> None:
    pass


def test_a_result_passes() -> None:
    async def run() -> int:
        return await Gate("t", 1, 1).run(lambda: 5)

    assert asyncio.run(run()) == 5


def test_work_that_does_not_end_in_time_is_a_problem() -> None:
    release = threading.Event()

    async def run() -> None:
        await Gate("t", 1, 0.05).run(lambda: release.wait(10))

    with pytest.raises(Problem) as caught:
        asyncio.run(run())
    release.set()
    assert caught.value.kind == "query-timeout"


def test_no_more_work_runs_at_once_than_allowed_and_a_late_comer_is_told() -> None:
    release = threading.Event()

    async def run() -> None:
        gate = Gate("t", 1, 0.1)
        first = asyncio.create_task(gate.run(lambda: release.wait(10)))
        await asyncio.sleep(0.02)
        with pytest.raises(Problem) as caught:
            await gate.run(nothing)
        assert caught.value.kind == "busy"
        assert "Retry-After" in caught.value.headers
        with pytest.raises(Problem):
            await first
        release.set()
        assert await gate.run(lambda: 7) == 7

    asyncio.run(run())


def test_an_error_of_the_work_reaches_the_caller_and_the_turn_is_free_again() -> None:
    def fail() -> None:
        raise RuntimeError("x")

    async def run() -> int:
        gate = Gate("t", 1, 1)
        with pytest.raises(RuntimeError):
            await gate.run(fail)
        return await gate.run(lambda: 1)

    assert asyncio.run(run()) == 1


def test_a_queue_that_is_full_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_QUEUE", 1)
    release = threading.Event()

    async def run() -> None:
        gate = Gate("t", 1, 5)
        tasks = [asyncio.create_task(gate.run(lambda: release.wait(10))) for _ in range(2)]
        await asyncio.sleep(0.02)
        with pytest.raises(Problem, match="wait already"):
            await asyncio.wait_for(gate.run(nothing), 1)
        release.set()
        assert await asyncio.gather(*tasks) == [True, True]

    asyncio.run(run())
