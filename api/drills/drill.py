"""The action: a load, a fault in the middle of it, its end, and what the nodes have of the load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from api.drain import unfit
from api.drills.judge import Had, judge
from api.drills.model import RECORDS, DrillRequest, Order, Report, Sent
from api.drills.node import CUTS_OFF, Asked, DrillNodes
from api.drills.orders import begun, read_log, sent
from api.drills.plan import Plan, Planner
from api.observer import Observer
from api.operations.model import Kept
from api.operations.nodes import Nodes, refused
from api.operations.operations import Course, Failed
from api.passed_on import header_of
from appliance.config_drill import DrillKind
from appliance.drill.accounts import Account, changes
from appliance.drill.evidence import Evidence
from appliance.drill.sendlog import SendLog
from appliance.schema import DRILL_DOMAINS

_LONGER: Final = 120.0
"""Seconds that a drill may take beyond its load, besides the time until all nodes are well."""
_LEAD: Final = 2.0
"""Seconds of load before the fault, and at least as many after its end."""
_HOLD: Final = 1.0
"""Seconds from the move of the VIP to the end of the fault."""
_BEGIN: Final = 15.0
"""Seconds in which a source has to begin; drains last so much longer than the load, at most."""
_END: Final = 60.0
"""Seconds in which it has to hand in what it sent: neighbours may look for the VIP where it was."""
_WELL: Final = 60.0
_BOOTED: Final = 600.0
"""Seconds in which all nodes have to be well again; machines take their time to boot."""
_PERIOD: Final = 0.05
_MOVES: Final[frozenset[DrillKind]] = frozenset(
    {"switchover", "collector-hang", "keepalived-stop", "partition", "node-kill"}
)
"""Kinds that are to move the VIP."""


@dataclass(slots=True)
class Seen:
    """What was seen while the fault was there; times by this node's clock."""

    done_for: dict[str, str]
    """The header that says for whom all this is."""
    fault_ns: int = 0
    taker: str | None = None
    moved_ns: int | None = None
    verdict_ns: int | None = None
    """When the health unit of the holder took notice."""
    drained: list[str] = field(default_factory=list)


class DrillAction:
    """Does drills of all kinds."""

    def __init__(self, observed: Observer, parts: DrillNodes) -> None:
        self._observed = observed
        self._parts = parts
        self._nodes = Nodes(observed)
        self.planner = Planner(observed)

    def check(self, request: Mapping[str, Any]) -> None:
        """Raise a problem where it cannot be done now."""
        self._plan(request)

    def _plan(self, request: Mapping[str, Any]) -> Plan:
        checks, plan = self.planner.checks(request)
        if plan is None:
            reasons = "; ".join(f"{c.name}: {c.detail}" for c in checks if not c.ok)
            raise refused("preflight", "The preflight of the drill has failed", reasons)
        return plan

    async def settle(self, operation: Kept, undone: bool) -> tuple[bool, str] | None:
        """One that was cut off has no report; what it did ends by itself."""
        views, silent = self._nodes.views()
        vip = str(operation.request["vip"])
        left = [v.name for v in views.values() if (v.fault and v.fault.active) or v.drain.of(vip)]
        if undone or not (left or silent):
            return False, "it was cut off; what it did is undone"
        return None

    # ── the course ────────────────────────────────────────────────────────────────────────────

    async def run(self, request: Mapping[str, Any], course: Course) -> None:
        """Do it."""
        wanted = DrillRequest.model_validate(dict(request))
        plan = self._plan(request)
        seen = Seen(header_of(course.operation.by, "operator", course.operation.id))
        before = {node: await self._parts.account(node) for node in plan.nodes}
        began_ns = self._observed.clock()
        order = self._order(course.operation, plan, wanted)
        try:
            if plan.source_is_node:
                seen.drained.append(plan.source)
                await self._nodes.drain(
                    plan.source, plan.vip, wanted.seconds + _BEGIN, seen.done_for
                )
            await course.say(
                f"{plan.source} is to send {order.rate} datagrams/s to {plan.vip} on {plan.holder}",
                order=order.model_dump(),
                kind=wanted.kind,
                **{"vip": plan.vip, "from": plan.holder},
            )
            await self._begun(order)
            load_end = time.monotonic() + order.seconds
            await course.say(f"{plan.source} sends")
            await asyncio.sleep(_LEAD)
            await self._fault(wanted, plan, seen, course)
            await self._watch(wanted, plan, seen, load_end - _LEAD, course)
        finally:
            await asyncio.shield(self._undo(plan, wanted.kind, seen))
        ended_ns = await self._ended(wanted, seen)
        await course.say("the fault is undone")
        well = _well_seconds(wanted.kind)
        restoring = asyncio.create_task(self._restored(plan, ended_ns, well))
        try:
            log = await self._sent(order, load_end)
            restored = await restoring
        finally:
            restoring.cancel()
        asked = Asked(domain=order.domain, records=RECORDS, since_ns=began_ns, after_ns=0)
        found = await self._settled(plan, asked, seen.fault_ns, log)
        after = {node: await self._account(node) for node in plan.nodes}
        report = self._report(course.operation, wanted, plan, seen, log, found, before, after)
        report = report.model_copy(update={"restored_ms": restored})
        if restored is None:
            report.unmeasured["restored_ms"] = f"not within {well:g} s"
            report.problems.append("the nodes are not well again")
        report = report.model_copy(update={"passed": not report.problems and not report.exceeded})
        result = "; ".join([*report.exceeded, *report.problems]) or "all objectives are met"
        await course.say(
            f"{report.sent} sent, {report.lost} lost: {result}",
            passed=report.passed,
            to=report.after,
            **report.model_dump(include=set(_SUMMARY)),
        )
        whole = report.model_copy(update={"events": course.operation.events})
        await self._observed.register.put("report", report.id, whole.model_dump())

    def _order(self, operation: Kept, plan: Plan, wanted: DrillRequest) -> Order:
        config = self._observed.config
        vip = next(v for v in config.cluster.vip if v.name == plan.vip) if config.cluster else None
        assert vip is not None
        ports = [one.port for one in config.listener if one.transport == "udp"]
        last = self._observed.register.all("report")[-1:]
        used = int((last[0].body or {}).get("domain", DRILL_DOMAINS[-1])) if last else None
        number = 0 if used is None else (used - DRILL_DOMAINS[0] + 1) % len(DRILL_DOMAINS)
        return Order(
            id=operation.id,
            source=plan.source,
            address=str(min(vip.addresses, key=lambda a: a.version)),
            port=4739 if 4739 in ports else ports[0],
            domain=DRILL_DOMAINS[number],
            rate=wanted.rate,
            seconds=wanted.seconds,
        )

    async def _begun(self, order: Order) -> None:
        register = self._observed.register
        until = time.monotonic() + _BEGIN
        while not begun(register, order.id):
            if time.monotonic() > until:
                raise Failed(f"{order.source} has not begun to send within {_BEGIN:g} s")
            await asyncio.sleep(_PERIOD)
        if (handed := sent(register, order.id)) is not None and handed.problem:
            raise Failed(f"{order.source} cannot send: {handed.problem}")

    async def _fault(self, wanted: DrillRequest, plan: Plan, seen: Seen, course: Course) -> None:
        holder, kind = plan.holder, wanted.kind
        if kind == "switchover":
            seen.drained.append(holder)
            at = await self._nodes.drain(holder, plan.vip, wanted.seconds + _BEGIN, seen.done_for)
        else:
            # it ends by itself while the load lasts, whatever becomes of this node
            at = await self._parts.do(holder, kind, _fault_seconds(wanted))
        seen.fault_ns = self._nodes.here(holder, at)
        await course.say(f"{kind} of {holder}", fault_ns=seen.fault_ns)

    async def _watch(
        self, wanted: DrillRequest, plan: Plan, seen: Seen, until: float, course: Course
    ) -> None:
        """Until the VIP has moved and some more, or nothing moves and the load is about to end."""
        takers = [n for n in plan.nodes if n not in (plan.holder, *seen.drained)]
        end = until
        if wanted.kind not in _MOVES:
            end = min(end, time.monotonic() + 2 * _HOLD)
        while time.monotonic() < end:
            await asyncio.sleep(_PERIOD)
            if seen.verdict_ns is None and wanted.kind not in CUTS_OFF:
                seen.verdict_ns = await self._verdict(plan.holder, seen.fault_ns)
            if seen.taker is not None:
                continue
            since = await asyncio.gather(*(self._nodes.held_since(n, plan.vip) for n in takers))
            for node, at in zip(takers, since, strict=True):
                if at is not None:
                    seen.taker, seen.moved_ns = node, self._nodes.here(node, at)
                    end = min(end, time.monotonic() + _HOLD)
                    await course.say(f"{node} holds {plan.vip}")

    async def _verdict(self, node: str, since_ns: int) -> int | None:
        """When the health unit of ``node`` took notice, if it has."""
        view = await self._nodes.view(node)
        health = view.health if view else None
        if health is None or health.state == "ok":
            return None
        at = self._nodes.here(node, health.since_ns)
        return at if at >= since_ns else None

    async def _undo(self, plan: Plan, kind: DrillKind, seen: Seen) -> None:
        """Where that cannot be, it ends by itself."""
        await self._nodes.undrain(seen.drained, plan.vip, seen.done_for)
        if kind == "switchover" or kind in CUTS_OFF:
            return
        try:
            await self._parts.undo(plan.holder)
        except Failed:
            return

    async def _ended(self, wanted: DrillRequest, seen: Seen) -> int:
        """When the fault ended, by the clock of this node; waits for one that ends by itself."""
        if wanted.kind == "node-kill":
            return seen.fault_ns  # from then on it may boot
        if wanted.kind != "partition":
            return self._observed.clock()
        end_ns = seen.fault_ns + int(_fault_seconds(wanted) * 1e9)
        await asyncio.sleep(max(end_ns - self._observed.clock(), 0) / 1e9)
        return end_ns

    async def _sent(self, order: Order, load_end: float) -> SendLog:
        until = load_end + _END
        while (handed := sent(self._observed.register, order.id)) is None:
            if time.monotonic() > until:
                raise Failed(f"{order.source} has not said what it sent")
            await asyncio.sleep(_PERIOD)
        return _log(order, handed)

    async def _restored(self, plan: Plan, ended_ns: int, seconds: float) -> float | None:
        """Milliseconds until all nodes are well again; None where they are not in time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            views = await asyncio.gather(*(self._nodes.view(node) for node in plan.nodes))
            if all(view is not None and not unfit(view, plan.vip) for view in views):
                return _ms(self._observed.clock() - ended_ns)
            await asyncio.sleep(_PERIOD)
        return None

    # ── what the nodes have ───────────────────────────────────────────────────────────────────

    async def _settled(
        self, plan: Plan, asked: Asked, fault_ns: int, log: SendLog
    ) -> dict[str, Evidence]:
        """What each node has, once that does not change any more."""
        quiet = 2 * self._observed.config.store.flush_seconds + 1.0
        before: dict[str, int] = {}
        since = time.monotonic()
        while True:
            found = {}
            for node in plan.nodes:
                mine = {
                    "since_ns": asked.since_ns + self._nodes.offset_ns(node) - 10**9,
                    "after_ns": fault_ns + self._nodes.offset_ns(node),
                }
                found[node] = await self._parts.evidence(node, asked.model_copy(update=mine))
            now = {node: int(e.times.sum()) for node, e in found.items()}
            if now != before:
                before, since = now, time.monotonic()
            elif time.monotonic() - since >= quiet:
                return found
            await asyncio.sleep(0.25)

    async def _account(self, node: str) -> Account | None:
        try:
            return await self._parts.account(node)
        except Failed:
            return None

    def _report(
        self,
        operation: Kept,
        wanted: DrillRequest,
        plan: Plan,
        seen: Seen,
        log: SendLog,
        found: Mapping[str, Evidence],
        before: Mapping[str, Account],
        after: Mapping[str, Account | None],
    ) -> Report:
        nodes, fault_ns = self._nodes, seen.fault_ns
        had = {
            node: Had(
                evidence=one,
                received_ns=one.received_ns - nodes.offset_ns(node),
                durable_ns=None if one.durable_ns is None else nodes.here(node, one.durable_ns),
                changes=None if now is None else changes(before[node], now),
                held=node == plan.holder,
            )
            for node, one in found.items()
            for now in [after[node]]
        }
        objective = self._observed.config.drill.objective_of(wanted.kind)
        judgement = judge(log, had, fault_ns, objective)
        unmeasured = dict(judgement.unmeasured)
        exceeded = list(judgement.exceeded)
        if seen.moved_ns is None:
            unmeasured["vip_move_ms"] = "the VIP stayed where it was"
            if wanted.kind in _MOVES:
                exceeded.append(f"{plan.vip} has not moved")
        detected = [at for at in (seen.verdict_ns, self._transition(plan, seen)) if at is not None]
        if wanted.kind == "switchover":
            detected = []
            unmeasured["detection_ms"] = "a switchover is asked for: there is nothing to detect"
        elif not detected:
            unmeasured["detection_ms"] = "no node took notice"
        holders = [n for n in plan.nodes if self._holds(n, plan.vip)]
        return Report(
            id=operation.id,
            kind=wanted.kind,
            vip=plan.vip,
            cluster=self._observed.view().cluster or "",
            by=operation.by,
            source=plan.source,
            domain=log.load.run,
            rate=wanted.rate,
            before=plan.holder,
            after=holders[0] if len(holders) == 1 else None,
            fault_ns=fault_ns,
            detection_ms=_ms(min(detected) - fault_ns) if detected else None,
            vip_move_ms=None if seen.moved_ns is None else _ms(seen.moved_ns - fault_ns),
            restored_ms=None,
            clock_uncertainty_ms=nodes.uncertainty_ms(*plan.nodes),
            unmeasured=unmeasured,
            objective=objective.model_dump(),
            exceeded=exceeded,
            problems=judgement.problems,
            passed=False,
            events=[],
            **judgement.figures,
        )

    def _holds(self, node: str, vip: str) -> bool:
        view = self._nodes.views()[0].get(node)
        return bool(view and view.vip(vip).held)

    def _transition(self, plan: Plan, seen: Seen) -> int | None:
        """The first transition of the VIP since the fault, at any node."""
        own = self._observed.tracker.history.all()
        views = self._nodes.views()[0]
        found = [t for t in own if t.node == self._observed.name]
        found += [t for v in views.values() for t in v.transitions if t.node == v.name]
        times = [self._nodes.here(t.node, t.time_ns) for t in found if t.vip == plan.vip]
        return min((at for at in times if at >= seen.fault_ns), default=None)


_SUMMARY: Final = (
    *("detection_ms", "vip_move_ms", "first_datagram_ms", "first_flow_ms", "longest_gap_ms"),
    *("restored_ms", "sent", "stored", "lost", "duplicated", "on_several_nodes"),
)


def deadline_seconds(wanted: DrillRequest) -> float:
    """How long a drill may take in all."""
    return wanted.seconds + _LONGER + _well_seconds(wanted.kind)


def _fault_seconds(wanted: DrillRequest) -> float:
    """After so long a fault ends by itself; by then the load has some seconds left."""
    return wanted.seconds - 2 * _LEAD


def _well_seconds(kind: DrillKind) -> float:
    return _BOOTED if kind == "node-kill" else _WELL


def _log(order: Order, handed: Sent) -> SendLog:
    if handed.problem:
        raise Failed(f"{order.source} could not send: {handed.problem}")
    try:
        log = read_log(handed)
    except ValueError as error:
        raise Failed(f"{order.source}: what it says it sent cannot be used: {error}") from None
    if log.load.run != order.domain or not log.sent:
        raise Failed(f"{order.source} has sent something else, or nothing")
    return log


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)
