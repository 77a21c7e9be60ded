"""Begins operations, runs them under a deadline, and finds out what became of those cut off.

Each step is in the register before the next one is taken, so any node can tell how far an operation
is. The node that began it does it. What that node had undone if the API dies ends by itself
(:mod:`api.drain_files`); when the API is there again, the action is asked what became of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from hashlib import sha256
from http import HTTPStatus
from typing import Any, Protocol

from api.operations.model import Event, Kept, Kind, State
from api.operations.paused import refuse_paused
from api.problems import Problem
from api.register.replicate import Replicator
from api.register.store import NotWritten, Register

log = logging.getLogger(__name__)

UNDO_SECONDS = 5.0
"""After the deadline, all that the action did for a time has ended by itself."""
_SETTLE_PERIOD = 1.0
_SETTLE_SECONDS = 3600.0
_FOLLOW_PERIOD = 0.1


class Failed(Exception):  # noqa: N818 - says what happened
    """The operation did not succeed, and what it did is undone; the message says why."""


class Course:
    """What an action tells of its course, and what it has measured."""

    def __init__(
        self, operation: Kept, save: Callable[[Kept], Awaitable[None]], clock: Callable[[], int]
    ) -> None:
        self.operation = operation
        self._save = save
        self._clock = clock

    async def say(self, text: str, **figures: Any) -> None:
        """Note an event, and what is known since."""
        one = self.operation
        self.operation = one.model_copy(
            update={
                "events": [*one.events, Event(time_ns=self._clock(), text=text)],
                "figures": one.figures | figures,
            }
        )
        await self._save(self.operation)


class Action(Protocol):
    """What an operation of one kind does."""

    def check(self, request: Mapping[str, Any]) -> None:
        """Raise a :class:`Problem` where it cannot be done now."""

    async def run(self, request: Mapping[str, Any], course: Course) -> None:
        """Do it; raises :class:`Failed`. Cancelled at the deadline."""

    async def settle(self, operation: Kept, undone: bool) -> tuple[bool, str] | None:
        """Whether an operation that was cut off has succeeded after all, and a sentence that says
        so; None while that is not known. ``undone``: whether all that was for a time has ended.
        """


class Operations:
    """All operations of the cluster; those of this node run here."""

    def __init__(
        self,
        name: str,
        register: Register,
        replicator: Replicator,
        reachable: Callable[[str], bool],
        clock: Callable[[], int],
    ) -> None:
        self._name = name
        self._register = register
        self._replicator = replicator
        self._reachable = reachable
        self._clock = clock
        self.actions: dict[Kind, Action] = {}
        self._live: dict[str, Kept] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._beginning = asyncio.Lock()

    # ── what there is ─────────────────────────────────────────────────────────────────────────

    def all(self) -> list[Kept]:
        """The newest first."""
        found = (Kept.model_validate(e.body) for e in self._register.all("operation"))
        return [self._shown(self._live.get(one.id, one)) for one in found][::-1]

    def get(self, id_: str) -> Kept:
        """The operation; raises a problem where there is none."""
        entry = self._register.get("operation", id_)
        if entry is None:
            raise Problem(
                HTTPStatus.NOT_FOUND,
                "unknown",
                "There is no such thing",
                f"there is no operation {id_!r}; the oldest are forgotten",
            )
        return self._shown(self._live.get(id_) or Kept.model_validate(entry.body))

    def _shown(self, one: Kept) -> Kept:
        """As far as this node can tell: of what a dead node does, nobody knows."""
        if one.ended or one.node == self._name or self._reachable(one.node):
            return one
        if self._clock() < _undone_ns(one):
            return one
        problem = f"{one.node}, which did it, does not answer"
        return one.model_copy(update={"state": "unknown", "problem": problem})

    async def follow(self, id_: str) -> AsyncIterator[Kept]:
        """Each state of an operation that differs from the one before, until it has ended."""
        before = None
        while True:
            now = self.get(id_)
            if now != before:
                yield now
                before = now
            if now.ended:
                return
            await asyncio.sleep(_FOLLOW_PERIOD)

    # ── beginning ─────────────────────────────────────────────────────────────────────────────

    async def begin(
        self,
        kind: Kind,
        request: dict[str, Any],
        by: str,
        deadline_seconds: float,
        not_before_ns: int | None = None,
        key: str | None = None,
    ) -> Kept:
        """Begin an operation, or find the one begun with the same ``key``; raises a problem."""
        content = _digest(kind, request)
        idempotency = _digest(by, key) if key is not None else ""
        async with self._beginning:
            if idempotency and (found := self._begun(idempotency, content)):
                return found
            if not_before_ns is None:
                self._refuse(kind, request)
            now = self._clock()
            one = Kept(
                id=f"{now:016x}-{secrets.token_hex(2)}",
                kind=kind,
                state="queued",
                node=self._name,
                by=by,
                created_ns=now,
                not_before_ns=not_before_ns,
                deadline_seconds=deadline_seconds,
                request=request,
                idempotency=idempotency,
                content=content,
            )
            await self._register.put("operation", one.id, one.model_dump())
            # whichever node a client asks next, it knows of this
            await self._replicator.told()
            self._start(one)
        return one

    def busy_with(self, kind: Kind) -> bool:
        """Whether an operation of that kind is under way, on whichever node."""
        now = self._clock()
        return any(o.kind == kind and not o.ended and now < _undone_ns(o) for o in self.all())

    def _begun(self, idempotency: str, content: str) -> Kept | None:
        found = next((one for one in self.all() if one.idempotency == idempotency), None)
        if found is not None and found.content != content:
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "The Idempotency-Key was used for another request",
                f"operation {found.id} was begun with it; use a new key for each request",
            )
        return found

    def _refuse(self, kind: Kind, request: Mapping[str, Any], own: str = "") -> None:
        """Raise a problem where an operation, that of the id ``own`` if it has begun, cannot be
        done now.
        """
        self.refuse_any(own)
        self.actions[kind].check(request)

    def refuse_any(self, own: str = "") -> None:
        """Raise a problem where no operation can be begun now, whatever it is."""
        refuse_paused(self._register, self._clock())
        now = self._clock()
        for other in self.all():
            # of two that are about to run, each would give way to the other
            about_to = other.state == "queued" and other.not_before_ns is None and not own
            under_way = other.state in ("running", "unknown") and now < _undone_ns(other)
            if other.id != own and (about_to or under_way):
                raise _busy(other)

    async def cancel(self, id_: str, by: str) -> Kept:
        """End an operation that has not begun; raises a problem."""
        one = self.get(id_)
        if one.node != self._name or one.state != "queued":
            where = f"ask {one.node}" if one.node != self._name else f"it is {one.state}"
            raise Problem(
                HTTPStatus.CONFLICT,
                "not-queued",
                "Only what has not begun can be cancelled",
                f"operation {id_}: {where}",
            )
        task = self._tasks.pop(id_, None)
        if task is not None:
            task.cancel()
        return await self._end(one, "failed", f"cancelled by {by}")

    # ── running ───────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Go on with what this node had begun before the API ended."""
        for one in self.all():
            if one.node != self._name or one.ended:
                continue
            waits = one.not_before_ns is not None and one.not_before_ns > self._clock()
            if one.state == "queued" and waits:
                self._start(one)
            elif one.state == "queued":
                await self._end(one, "failed", "the API was restarted before it began")
            else:
                await self._doubt(one, "the API was restarted in the middle of it")

    async def stop(self) -> None:
        """Leave what runs; what it did for a time ends by itself."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, one: Kept) -> None:
        self._spawn(one.id, self._run(one))

    def _spawn(self, id_: str, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks[id_] = task
        task.add_done_callback(
            lambda ended: self._tasks.pop(id_) if self._tasks.get(id_) is ended else None
        )

    async def _run(self, one: Kept) -> None:
        # in steps: clocks are set
        while (left := (one.not_before_ns or 0) - self._clock()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left / 1e9, 1.0))
        try:
            self._refuse(one.kind, one.request, own=one.id)
        except Problem as problem:
            await self._end(one, "failed", problem.detail)
            return
        one = one.model_copy(update={"state": "running", "started_ns": self._clock()})
        await self._save(one)
        # two nodes may begin at the same time: once both know, the later one gives way
        await self._replicator.told()
        earlier = [o for o in self.all() if o.state == "running" and o.id < one.id]
        if earlier:
            await self._end(one, "failed", _busy(earlier[0]).detail)
            return
        await self._act(Course(one, self._save, self._clock))

    async def _act(self, course: Course) -> None:
        one = course.operation
        try:
            async with asyncio.timeout(one.deadline_seconds):
                await self.actions[one.kind].run(one.request, course)
        except Failed as failed:
            await self._end(course.operation, "failed", str(failed))
        except TimeoutError:
            late = f"not within {one.deadline_seconds:g} s"
            await self._doubt(course.operation, late)
        except Exception as error:
            log.exception("operation %s", one.id)
            await self._doubt(course.operation, f"{type(error).__name__}: see the API's log")
        else:
            await self._end(course.operation, "succeeded", "")

    async def _doubt(self, one: Kept, problem: str) -> None:
        """It is not known what became of it: find out."""
        one = _with(one, self._clock(), problem, state="unknown", problem=problem)
        await self._save(one)
        self._spawn(one.id, self._settle(one))

    async def _settle(self, one: Kept) -> None:
        until = self._clock() + int(_SETTLE_SECONDS * 1e9)
        while self._clock() < until:
            found = await self.actions[one.kind].settle(one, self._clock() > _undone_ns(one))
            if found is not None:
                succeeded, text = found
                state: State = "succeeded" if succeeded else "failed"
                problem = "" if succeeded else f"{one.problem}; {text}"
                await self._end(one, state, problem, text)
                return
            await asyncio.sleep(_SETTLE_PERIOD)

    async def _end(self, one: Kept, state: State, problem: str, text: str = "") -> Kept:
        now = self._clock()
        said = text or problem or state
        ended = _with(one, now, said, state=state, problem=problem, ended_ns=now)
        await self._save(ended)
        return ended

    async def _save(self, one: Kept) -> None:
        """Keep it; where the disk cannot, in memory alone: what has begun must go on."""
        self._live[one.id] = one
        try:
            await self._register.put("operation", one.id, one.model_dump())
            del self._live[one.id]
        except NotWritten as error:
            log.error("operation %s cannot be kept: %s", one.id, error.detail)


def _undone_ns(one: Kept) -> int:
    """When all that it did for a time has ended by itself."""
    begun = one.started_ns or one.not_before_ns or one.created_ns
    return begun + int((one.deadline_seconds + UNDO_SECONDS) * 1e9)


def _with(one: Kept, now_ns: int, text: str, **changes: Any) -> Kept:
    """``one`` with a further event."""
    event = Event(time_ns=now_ns, text=text)
    return one.model_copy(update={"events": [*one.events, event], **changes})


def _busy(other: Kept) -> Problem:
    return Problem(
        HTTPStatus.CONFLICT,
        "busy",
        "Another operation runs",
        f"{other.kind} {other.id} of {other.node} is {other.state}; wait for its end",
    )


def _digest(*parts: Any) -> str:
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
