"""A switchover: a VIP moves to another node because somebody wants it to; nothing is lost.

The node that holds it is drained of it for a time, as are those that are not to have it, and once
another node holds it these drains end; no VIP moves because of that. Should the API die in between,
they end by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from api.cluster import holders
from api.drain import require_vip, unfit
from api.observer import Observer
from api.operations.model import Kept
from api.operations.nodes import Nodes, refused
from api.operations.operations import UNDO_SECONDS, Course
from api.passed_on import header_of
from api.problems import Problem

_PERIOD = 0.05
_TOLD_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is to give a VIP up, and who may take it."""

    vip: str
    holder: str
    takers: tuple[str, ...]
    others: tuple[str, ...]
    """Neither."""


class Switchover:
    """The action."""

    def __init__(self, observed: Observer) -> None:
        self._observed = observed
        self._nodes = Nodes(observed)

    def check(self, request: Mapping[str, Any]) -> None:
        """Raise a problem where it cannot be done now."""
        self._plan(request)

    async def run(self, request: Mapping[str, Any], course: Course) -> None:
        """Do it."""
        plan = self._plan(request)
        vip, holder = plan.vip, plan.holder
        await course.say(f"{holder} holds {vip}", **{"vip": vip, "from": holder})
        # longer than the deadline, so that they do not end while this may yet succeed
        seconds = course.operation.deadline_seconds + UNDO_SECONDS
        done_for = header_of(course.operation.by, "operator", course.operation.id)
        try:
            for node in plan.others:
                await self._nodes.drain(node, vip, seconds, done_for)
            asked_ns = await self._nodes.drain(holder, vip, seconds, done_for)
            await course.say(f"{holder} is asked to give {vip} up")
            taker, since_ns = await self._moved(plan)
        finally:
            await asyncio.shield(self._nodes.undrain([holder, *plan.others], vip, done_for))
        await self._told(vip, taker)
        moved = self._nodes.here(taker, since_ns) - self._nodes.here(holder, asked_ns)
        await course.say(
            f"{taker} holds {vip}",
            to=taker,
            vip_move_ms=round(moved / 1e6, 1),
            clock_uncertainty_ms=self._nodes.uncertainty_ms(taker, holder),
        )

    async def settle(self, operation: Kept, undone: bool) -> tuple[bool, str] | None:
        """Tell by who holds the VIP now."""
        vip = str(operation.request["vip"])
        target = operation.request.get("target")
        before = operation.figures.get("from")
        if before is None:
            return False, "it had changed nothing"
        held = holders(self._observed, self._observed.view())[vip]
        if len(held) != 1 or not self._all_answer():
            return None
        if held[0] != before and target in (None, held[0]):
            return True, f"{held[0]} holds {vip}"
        return (False, f"{held[0]} holds {vip}; what was drained for it is not any more") \
            if undone else None  # fmt: skip

    def _all_answer(self) -> bool:
        return all(peer.view is not None for peer in self._observed.peers.values())

    # ── who ───────────────────────────────────────────────────────────────────────────────────

    def _plan(self, request: Mapping[str, Any]) -> Plan:
        vip, target = str(request["vip"]), request.get("target")
        views, problems = self._nodes.views()
        require_vip(self._observed, vip)
        if target is not None and target not in (*views, *problems):
            raise Problem(
                HTTPStatus.NOT_FOUND,
                "unknown",
                "There is no such thing",
                f"there is no node {target!r}; there are: {', '.join([*views, *problems])}",
            )
        held = holders(self._observed, views[self._observed.name])[vip]
        if len(held) != 1:
            who = f"{' and '.join(held)} hold it" if held else "no node that answers holds it"
            raise refused("no-one-holder", "Not one node holds the VIP", f"{vip}: {who}")
        holder = held[0]
        if target == holder:
            raise refused("there-already", "The VIP is there", f"{target} holds {vip} already")
        reasons = problems | {
            name: reason
            for name, view in views.items()
            if name != holder and (reason := unfit(view, vip))
        }
        fit = [name for name in views if name != holder and name not in reasons]
        takers = [name for name in fit if target in (None, name)]
        words = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
        if not takers:
            raise refused(
                "nobody-left", "No other node could take over", f"{vip}: {words or 'it is alone'}"
            )
        if target is not None and problems:
            # what cannot be asked to stand back could take it
            raise refused("not-all-answer", "The target cannot be made sure of", words)
        others = tuple(name for name in views if name != holder and name not in takers)
        return Plan(vip, holder, tuple(takers), others)

    # ── doing ─────────────────────────────────────────────────────────────────────────────────

    async def _moved(self, plan: Plan) -> tuple[str, int]:
        """Wait until one of the takers holds the VIP and the holder does not: who, since when."""
        while True:
            nodes = [plan.holder, *plan.takers]
            found = await asyncio.gather(
                *(self._nodes.held_since(node, plan.vip) for node in nodes)
            )
            there = [(node, since) for node, since in zip(nodes, found, strict=True) if since]
            if len(there) == 1 and there[0][0] != plan.holder:
                return there[0]
            await asyncio.sleep(_PERIOD)

    async def _told(self, vip: str, taker: str) -> None:
        """Wait until this node has heard of it from the others as usual, too: whoever asks it now
        is told what is true.
        """
        until = time.monotonic() + _TOLD_SECONDS
        while time.monotonic() < until:
            if holders(self._observed, self._observed.view())[vip] == [taker]:
                return
            await asyncio.sleep(_PERIOD)
