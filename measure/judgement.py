"""What became of a load: the figures, whether they agree, and whether they are good enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from appliance.drill.losses import Hole, Takeover
from benchmarks.report import Table, count
from measure.ledgers import StreamLedger

SHOWN_HOLES = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What is good enough; None: anything."""

    max_lost: int | None = None
    max_gap_ms: float | None = None
    max_takeover_ms: float | None = None
    max_settled_ms: float | None = None

    def slack(self, factor: float) -> Limits:
        """The same with times so many times as long: for machines that others use, too."""
        times = ("max_gap_ms", "max_takeover_ms", "max_settled_ms")
        longer = {n: limit * factor for n in times if (limit := getattr(self, n)) is not None}
        return replace(self, **longer)

    def exceeded(self, judgement: Judgement) -> list[str]:
        """What is not."""
        found = []
        if self.max_lost is not None and judgement.lost > self.max_lost:
            found.append(f"{judgement.lost} datagrams lost, {self.max_lost} allowed")
        if self.max_gap_ms is not None and judgement.longest_gap_ms > self.max_gap_ms:
            found.append(f"gap of {judgement.longest_gap_ms} ms, {self.max_gap_ms} allowed")
        if self.max_takeover_ms is not None:
            took = judgement.takeover_ms
            if took is None:
                found.append("no other node has taken over")
            elif took > self.max_takeover_ms:
                found.append(f"takeover after {took} ms, {self.max_takeover_ms} allowed")
        settled = judgement.settled_ms
        if self.max_settled_ms is not None and (settled is None or settled > self.max_settled_ms):
            found.append(f"settled after {settled} ms, {self.max_settled_ms} allowed")
        return found


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What one node has of one load, in datagrams."""

    stored: int
    """Of the load, each counted once."""
    stored_twice: int
    """Of these, more than once: a fault."""
    first_ns: int | None
    """When the first one was sent."""
    last_ns: int | None
    ledger: list[StreamLedger]


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What became of one load. All figures are datagrams, unless they say otherwise."""

    run: int
    source: str
    target: str
    sent: int
    stored: int
    """At least once, all their records."""
    lost: int
    """At no node, by their number and its ledger."""
    held: int
    """At a node that does not have their template, and waits for it."""
    lost_records: int
    """Not stored: of these datagrams, too."""
    lost_unclaimed: int
    """Of the lost, those between the first and last datagram of no node: before, after or between
    the nodes' parts, so that no node's ledger can know of them."""
    on_two_nodes: int
    """Stored on more than one node."""
    never_sent: int
    """Records stored whose number was never sent."""
    holes: list[Hole]
    """The longest, in the order of sending."""
    takeover: Takeover | None
    nodes: dict[str, NodeResult]
    problems: list[str]
    series: Series


@dataclass(frozen=True, slots=True)
class Series:
    """Datagrams over time of sending, for plots."""

    begin_ns: int
    step_ms: int
    sent: list[int]
    stored: dict[str, list[int]]
    """By node."""


@dataclass(slots=True)
class Judgement:
    """The whole result."""

    sent: int
    stored: int
    lost: int
    held: int
    stored_twice: int
    on_two_nodes: int
    longest_gap_ms: float
    takeover_ms: float | None
    """From the event to the arrival of the first datagram at another node."""
    event_ns: int | None
    limits: Limits
    loads: list[LoadResult]
    problems: list[str] = field(default_factory=list)
    """Why it is not consistent."""
    exceeded: list[str] = field(default_factory=list)
    """Limits that were not met."""
    settled_ms: float | None = None
    """From a partition's end to the last datagram of the node that gives way, if that was it."""

    @property
    def consistent(self) -> bool:
        """Whether sender, stores and ledgers agree."""
        return not self.problems

    @property
    def passed(self) -> bool:
        """Whether all is consistent and within the limits."""
        return not self.problems and not self.exceeded

    def document(self) -> dict[str, Any]:
        """For a JSON file."""
        return {"passed": self.passed, "consistent": self.consistent} | asdict(self)

    def text(self) -> str:
        """For people."""
        out = [_load_table(load).text() for load in self.loads]
        for load in self.loads:
            out += [_hole_text(hole) for hole in load.holes]
            out += [_takeover_text(load.takeover)] if load.takeover else []
        out += [f"! {reason}" for reason in (*self.problems, *self.exceeded)]
        out.append("passed" if self.passed else "failed")
        return "\n".join(out) + "\n"


def _load_table(load: LoadResult) -> Table:
    table = Table(
        f"Run {load.run} from {load.source} to {load.target}: {count(load.sent)} datagrams sent, "
        f"{count(load.stored)} stored, {count(load.lost)} lost "
        f"({count(load.lost_unclaimed)} of them in no node's ledger)",
        ["node", "stored", "twice", "received", "named losses", "missing", "lost by ledger"],
        notes=[
            *([f"{count(load.on_two_nodes)} on more than one node"] if load.on_two_nodes else []),
            *([f"{count(load.held)} wait for their template"] if load.held else []),
        ],
    )
    for name, node in load.nodes.items():
        for figures in node.ledger:
            units = "" if figures.units == 1 else f" / {figures.units}"
            cells = (
                count(figures.stored),
                count(figures.duplicates),
                count(figures.received),
                count(sum(figures.named_losses.values())),
                count(figures.missing),
                count(figures.sequence_lost) + units,
            )
            table.rows.append([f"{name} {figures.protocol}", *cells])
    return table


def _hole_text(hole: Hole) -> str:
    where = "" if hole.after_event_ms is None else f", {hole.after_event_ms} ms after the event"
    end = ", to the end" if hole.open else ""
    return f"hole of {count(hole.datagrams)} datagrams, {hole.gap_ms} ms{where}{end}"


def _takeover_text(takeover: Takeover) -> str:
    if takeover.new is None:
        return f"all stayed at {takeover.old}"
    return (
        f"{takeover.old} to {takeover.new}: last sent to {takeover.old} "
        f"{takeover.last_on_old_ms} ms, first sent to {takeover.new} {takeover.first_sent_ms} ms "
        f"after the event, received after {takeover.first_received_ms} ms"
    )


def combined(
    loads: list[LoadResult],
    event_ns: int | None,
    limits: Limits,
    troubles: Mapping[str, list[str]],
) -> Judgement:
    """The judgement on several loads. ``troubles``: what is wrong with each node as a whole."""
    took = [
        load.takeover.first_received_ms
        for load in loads
        if load.takeover and load.takeover.first_received_ms is not None
    ]
    result = Judgement(
        sent=sum(load.sent for load in loads),
        stored=sum(load.stored for load in loads),
        lost=sum(load.lost for load in loads),
        held=sum(load.held for load in loads),
        stored_twice=sum(n.stored_twice for load in loads for n in load.nodes.values()),
        on_two_nodes=sum(load.on_two_nodes for load in loads),
        longest_gap_ms=max((h.gap_ms for load in loads for h in load.holes), default=0.0),
        takeover_ms=max(took, default=None),
        event_ns=event_ns,
        limits=limits,
        loads=loads,
        problems=[f"{name}: {text}" for name, texts in troubles.items() for text in texts]
        + [f"run {load.run}: {text}" for load in loads for text in load.problems],
    )
    result.exceeded = limits.exceeded(result)
    return result
