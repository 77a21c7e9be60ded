"""``/v1/drill-node``: what whoever does a drill asks of each node; nobody else sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict

from api.access import require_peer
from api.gate import Gate
from api.observer import Observer
from api.operations.operations import Failed
from api.peers import PeerFailed
from api.problems import Problem
from appliance.config_drill import DrillKind
from appliance.drill.accounts import Account, account, read_account
from appliance.drill.evidence import Evidence, gather
from appliance.fault.ask import ask
from appliance.fault.verbs import FaultFailed
from appliance.query.engine import Engine, QueryError
from appliance.state import StateError, StateReader

log = logging.getLogger(__name__)

PATH: Final = "/v1/drill-node"
CUTS_OFF: Final[frozenset[DrillKind]] = frozenset({"partition", "node-kill"})
"""Faults after which the node cannot answer any more: it answers before."""
_AHEAD_NS: Final = 500_000_000
_SECONDS: Final = 20.0
"""For what reads a store."""

T = TypeVar("T")

router = APIRouter(prefix=PATH, include_in_schema=False)


class Asked(BaseModel):
    """Which load evidence is asked for; see :func:`~appliance.drill.evidence.gather`."""

    model_config = ConfigDict(extra="forbid")

    domain: int
    records: int
    since_ns: int
    after_ns: int


class DrillNode:
    """The part of this node in drills."""

    def __init__(self, observed: Observer, engine: Engine, state: StateReader, gate: Gate) -> None:
        self._observed = observed
        self._engine = engine
        self._state = state
        self._gate = gate
        self._later: set[asyncio.Task[None]] = set()

    async def account(self) -> list[list[str | int]]:
        """Its ledger; raises :class:`Failed`."""
        try:
            return await self._gate.run(lambda: account(self._state.ledger()))
        except (StateError, Problem) as error:
            raise Failed(str(error)) from None

    async def evidence(self, asked: Asked) -> dict[str, Any]:
        """What it has of a load; raises :class:`Failed`."""
        wanted = asked.model_dump()
        try:
            return await self._gate.run(lambda: gather(self._engine, **wanted).document())
        except (QueryError, Problem) as error:
            raise Failed(str(error)) from None

    async def do(self, kind: DrillKind, seconds: float) -> int:
        """Make a fault; when that is, by its clock. Raises :class:`Failed`."""
        wanted = {"ask": "do", "kind": kind, "seconds": seconds}
        if kind not in CUTS_OFF:
            return int((await self._ask(wanted))["time_ns"])
        at_ns = self._observed.clock() + _AHEAD_NS
        task = asyncio.create_task(self._do_later(wanted | {"at_ns": at_ns}))
        self._later.add(task)
        task.add_done_callback(self._later.discard)
        return at_ns

    async def undo(self) -> int:
        """End the fault, if there is one; raises :class:`Failed`."""
        return int((await self._ask({"ask": "undo"}))["time_ns"])

    async def _do_later(self, wanted: dict[str, Any]) -> None:
        try:
            await self._ask(wanted)
        except Failed as failed:
            log.error("%s has not been done: %s", wanted["kind"], failed)

    async def _ask(self, wanted: dict[str, Any]) -> dict[str, Any]:
        try:
            return await asyncio.to_thread(ask, self._observed.config.drill.socket, wanted)
        except FaultFailed as failed:
            raise Failed(str(failed)) from None


class DrillNodes:
    """All nodes' parts, this one's included."""

    def __init__(self, observed: Observer, here: DrillNode) -> None:
        self._observed = observed
        self._here = here

    async def account(self, node: str) -> Account:
        """The ledger of ``node``; raises :class:`Failed`."""
        if node == self._observed.name:
            return read_account(await self._here.account())
        return read_account(await self._get(node, "account", {}))

    async def evidence(self, node: str, asked: Asked) -> Evidence:
        """What ``node`` has of a load; raises :class:`Failed`."""
        if node == self._observed.name:
            return Evidence.read(await self._here.evidence(asked))
        wanted = {name: str(value) for name, value in asked.model_dump().items()}
        try:
            return Evidence.read(await self._get(node, "evidence", wanted))
        except (ValueError, KeyError, TypeError):
            raise Failed(f"{node}: its answer is no evidence") from None

    async def do(self, node: str, kind: DrillKind, seconds: float) -> int:
        """Make a fault on ``node``; when that is, by its clock. Raises :class:`Failed`."""
        if node == self._observed.name:
            return await self._here.do(kind, seconds)
        wanted = {"kind": kind, "seconds": f"{seconds:g}"}
        return int(await self._get(node, "fault", wanted, "PUT"))

    async def undo(self, node: str) -> int:
        """End the fault of ``node``; raises :class:`Failed`."""
        if node == self._observed.name:
            return await self._here.undo()
        return int(await self._get(node, "fault", {}, "DELETE"))

    async def _get(self, node: str, what: str, wanted: dict[str, str], method: str = "GET") -> Any:
        try:
            answer = await self._observed.peers[node].request(
                method, f"{PATH}/{what}", wanted, seconds=_SECONDS
            )
            document = answer.json()
        except (PeerFailed, ValueError) as failed:
            raise Failed(f"{node}: {failed}") from None
        if not answer.is_success:
            raise Failed(f"{node}: {document.get('detail', answer.status_code)}")
        return document


def _here(request: Request) -> DrillNode:
    require_peer(request)
    found: DrillNode = request.app.state.drill_node
    return found


Here = Annotated[DrillNode, Depends(_here)]


@router.get("/account")
async def get_account(here: Here) -> list[list[str | int]]:
    """Its ledger, in short."""
    return await _answer(here.account())


@router.get("/evidence")
async def get_evidence(here: Here, asked: Annotated[Asked, Query()]) -> dict[str, Any]:
    """What it has of a load."""
    return await _answer(here.evidence(asked))


@router.put("/fault")
async def put_fault(here: Here, kind: DrillKind, seconds: float) -> int:
    """Make a fault."""
    return await _answer(here.do(kind, seconds))


@router.delete("/fault")
async def delete_fault(here: Here) -> int:
    """End it."""
    return await _answer(here.undo())


async def _answer(work: Awaitable[T]) -> T:
    try:
        return await work
    except Failed as failed:
        status = HTTPStatus.SERVICE_UNAVAILABLE
        raise Problem(status, "not-done", "It cannot be done", str(failed)) from None
