"""From what was sent, and what each node has of it, to the report. No figure is an estimate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.drills.model import (
    RECORDS,
    STEP_MS,
    ExporterFigures,
    Hole,
    NodeFigures,
    Series,
)
from appliance.config_drill import Objective
from appliance.drill import losses
from appliance.drill.accounts import Change
from appliance.drill.evidence import Evidence
from appliance.drill.sendlog import SendLog
from appliance.drill.streams import I64

_SHOWN_HOLES = 20
_SHOWN_EXPORTERS = 200


@dataclass(frozen=True, slots=True)
class Had:
    """What a node has, with its times by the clock of whoever judges."""

    evidence: Evidence
    received_ns: I64
    durable_ns: int | None
    changes: list[Change] | None
    """Of its ledger; None where it cannot be had."""
    held: bool
    """Whether it held the VIP when the drill began."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The part of a report that comes from the load."""

    figures: dict[str, Any]
    """By their names in :class:`~api.drills.model.Report`."""
    unmeasured: dict[str, str]
    problems: list[str]
    exceeded: list[str]


def judge(log: SendLog, had: Mapping[str, Had], fault_ns: int, objective: Objective) -> Judgement:
    """Put together what the nodes have. ``fault_ns``: by the same clock as theirs."""
    sent = log.sent
    times = {name: _times(one.evidence, sent) for name, one in had.items()}
    stored_by = {name: counts > 0 for name, counts in times.items()}
    on = np.sum(list(stored_by.values()), axis=0)
    lost: NDArray[np.bool_] = on == 0
    offset = _offset(log, had)
    problems = [f"{name}: {text}" for name, one in had.items() for text in _wrong(one, sent)]
    unmeasured: dict[str, str] = {}
    holes: list[losses.Hole] = []
    takeover: losses.Takeover | None = None
    if offset is None:
        problems.append("no node has anything of the load")
    else:
        event = fault_ns - offset
        holes = losses.find_holes(log, lost, event)
        came = {
            name: (one.evidence.number[known], one.received_ns[known] - offset)
            for name, one in had.items()
            for known in [one.evidence.number < sent]
        }
        takeover = losses.find_takeover(log, came, event)
    new = takeover.new if takeover else None
    first_datagram = takeover.first_received_ms if takeover else None
    first_flow = None
    if new is None:
        unmeasured["first_datagram_ms"] = "no other node had any of the load after the fault"
        unmeasured["first_flow_ms"] = unmeasured["first_datagram_ms"]
    elif had[new].durable_ns is None:
        unmeasured["first_flow_ms"] = f"{new} has packed its segment since, or others beside it"
    else:
        first_flow = _ms((had[new].durable_ns or 0) - fault_ns)
    longest = max((hole.gap_ms for hole in holes), default=0.0)
    shown = sorted(sorted(holes, key=lambda h: -h.gap_ms)[:_SHOWN_HOLES], key=lambda h: h.first)
    others = _others(had)
    figures = {
        "exporters": sorted({a for one in had.values() for a in one.evidence.exporters}),
        "sent": sent,
        "stored": sent - int(lost.sum()),
        "lost": int(lost.sum()),
        "duplicated": sum(int((t[t > 0] - 1).sum()) for t in times.values()),
        "on_several_nodes": int((on > 1).sum()),
        "longest_gap_ms": longest,
        "first_datagram_ms": first_datagram,
        "first_flow_ms": first_flow,
        "nodes": [_node(name, one, times[name]) for name, one in had.items()],
        "holes": [
            Hole(
                after_fault_ms=hole.after_event_ms or 0.0,
                datagrams=hole.datagrams,
                gap_ms=hole.gap_ms,
                to_the_end=hole.open,
            )
            for hole in shown
        ],
        "others": others[:_SHOWN_EXPORTERS],
        "of_others": len(others),
        "series": _series(log, stored_by, offset or 0),
    }
    exceeded = _exceeded(objective, figures)
    return Judgement(figures, unmeasured, problems, exceeded)


def _times(evidence: Evidence, sent: int) -> I64:
    """How often each datagram that was sent is stored."""
    known = evidence.number < sent
    found = np.zeros(sent, np.int64)
    found[evidence.number[known]] = evidence.times[known]
    return found


def _offset(log: SendLog, had: Mapping[str, Had]) -> int | None:
    """The judge's clock minus the sender's, by the quickest datagram: so long as that one took, it
    is too much. None where nothing came.
    """
    found = []
    for one in had.values():
        known = one.evidence.number < log.sent
        if known.any():
            came = one.received_ns[known] - log.sent_wall_ns[one.evidence.number[known]]
            found.append(int(came.min()))
    return min(found, default=None)


def _wrong(one: Had, sent: int) -> list[str]:
    """What does not agree at a node."""
    found = []
    evidence = one.evidence
    if never := int((evidence.number >= sent).sum()):
        found.append(f"{never} datagrams are stored that were never sent")
    mine = _of_drill(one.changes)
    if mine is not None:
        received, named, stored = mine
        total = int(evidence.times.sum()) + evidence.partly
        if received != total + named:
            found.append(
                f"{received} datagrams received by its ledger, {total} in its store and "
                f"{named} named losses"
            )
        if not evidence.partly and stored != total * RECORDS:
            found.append(
                f"{stored} flow records stored by its ledger, {total * RECORDS} in its store"
            )
    return found


def _of_drill(changes: list[Change] | None) -> tuple[int, int, int] | None:
    """Datagrams received, named losses and flow records stored of the load, by the ledger."""
    if changes is None:
        return None
    mine = [c for c in changes if c.of_drill]
    return (
        sum(c.received for c in mine),
        sum(c.named_losses for c in mine),
        sum(c.stored for c in mine),
    )


def _node(name: str, one: Had, times: I64) -> NodeFigures:
    mine = _of_drill(one.changes)
    return NodeFigures(
        node=name,
        stored=int((times > 0).sum()),
        duplicated=int((times[times > 0] - 1).sum()),
        partly=one.evidence.partly,
        received=mine[0] if mine else None,
        named_losses=mine[1] if mine else None,
    )


def _others(had: Mapping[str, Had]) -> list[ExporterFigures]:
    found = [
        ExporterFigures(
            exporter=change.source[0],
            protocol=change.source[1],
            domain=change.source[2],
            node=name,
            received=change.received,
            stored=change.stored,
            named_losses=change.named_losses,
            duplicates=change.duplicates,
            # a node that did not hold the VIP has a gap where another one received
            sequence_lost=change.sequence_lost if one.held else None,
        )
        for name, one in had.items()
        for change in one.changes or ()
        if not change.of_drill
    ]
    return sorted(found, key=lambda f: (-(f.sequence_lost or 0) - f.named_losses, -f.received))


def _exceeded(objective: Objective, figures: Mapping[str, Any]) -> list[str]:
    """Objectives that were missed."""
    found = []
    if objective.lost is not None and figures["lost"] > objective.lost:
        found.append(f"{figures['lost']} datagrams lost, {objective.lost} allowed")
    if objective.gap_ms is not None and figures["longest_gap_ms"] > objective.gap_ms:
        found.append(f"a gap of {figures['longest_gap_ms']} ms, {objective.gap_ms:g} allowed")
    if objective.first_datagram_ms is not None:
        took = figures["first_datagram_ms"]
        if took is None:
            found.append("no other node has taken over")
        elif took > objective.first_datagram_ms:
            found.append(
                f"the first datagram elsewhere after {took} ms, "
                f"{objective.first_datagram_ms:g} allowed"
            )
    return found


def _series(log: SendLog, stored: Mapping[str, NDArray[np.bool_]], offset: int) -> Series:
    if not log.sent:
        return Series(begin_ns=0, sent=[], stored={name: [] for name in stored})
    step = (log.sent_monotonic_ns - log.monotonic_ns[0]) // (STEP_MS * 1_000_000)
    steps = int(step[-1]) + 1
    return Series(
        begin_ns=int(log.wall_ns[0]) + offset,
        sent=np.bincount(step, minlength=steps).tolist(),
        stored={n: np.bincount(step[had], minlength=steps).tolist() for n, had in stored.items()},
    )


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)
