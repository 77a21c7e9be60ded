"""Whether a drill can begin, and with whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from api.cluster import holders
from api.drain import unfit
from api.drills.model import Check, DrillRequest
from api.observer import Observer
from api.operations.nodes import Nodes
from api.views import NodeView
from appliance.drill.packed import MOST_DATAGRAMS

CLOCK_SECONDS = 0.1
"""Clocks further apart than this make figures of two nodes incomparable."""
_HOW = "start one with: tandem drill client --name NAME --url https://ADDRESS --token-file FILE"


@dataclass(frozen=True, slots=True)
class Plan:
    """With whom."""

    vip: str
    holder: str
    source: str
    nodes: tuple[str, ...]

    @property
    def source_is_node(self) -> bool:
        """Whether a node sends the load."""
        return self.source in self.nodes


class Planner:
    """Looks at the cluster."""

    def __init__(self, observed: Observer) -> None:
        self._observed = observed
        self._nodes = Nodes(observed)

    def checks(self, request: Mapping[str, Any]) -> tuple[list[Check], Plan | None]:
        """All that has to be so, and the plan where it is."""
        wanted = DrillRequest.model_validate(dict(request))
        vip = str(wanted.vip)
        views, silent = self._nodes.views()
        held = holders(self._observed, views[self._observed.name])[vip]
        source, why_not = self._source(wanted, held, views)
        found = [
            _check("allowed", self._forbidden(wanted)),
            _check("nodes", [*(f"{n} {why}" for n, why in silent.items()), *_unwell(views, vip)]),
            _check("holder", _no_one_holder(vip, held), f"{held[0]} holds {vip}" if held else ""),
            _check("in sync", [*_apart(views), *self._register_apart()]),
            _check("clocks", self._clocks()),
            _check("fault", self._no_fault(wanted, held, views)),
            _check("load", [why_not] if why_not else [], f"{source} sends it"),
        ]
        if not all(check.ok for check in found):
            return found, None
        return found, Plan(vip, held[0], source, tuple(views))

    def known_clients(self, views: Mapping[str, NodeView]) -> list[str]:
        """Clients that asked any node for orders a moment ago."""
        return sorted({name for view in views.values() for name in view.drill_clients})

    def _forbidden(self, wanted: DrillRequest) -> Iterator[str]:
        drill = self._observed.config.drill
        if wanted.kind not in drill.kinds:
            yield f"{wanted.kind} is forbidden by the configuration (drill.kinds)"
        if wanted.rate > drill.max_rate:
            most = f"the configuration allows {drill.max_rate} (drill.max_rate)"
            yield f"{wanted.rate} datagrams/s are too many: {most}"
        if wanted.rate * wanted.seconds > MOST_DATAGRAMS:
            yield f"a load has at most {MOST_DATAGRAMS} datagrams"

    def _register_apart(self) -> Iterator[str]:
        for name in self._observed.replicator.apart():
            yield f"{name} does not know the same operations as this node"

    def _clocks(self) -> Iterator[str]:
        for peer in self._observed.peers.values():
            offset = peer.clock_offset_seconds
            if offset is None:
                yield f"how the clock of {peer.name} differs is not known yet"
            elif abs(offset) > CLOCK_SECONDS:
                yield f"the clock of {peer.name} is {abs(offset):.3f} s off"

    def _no_fault(
        self, wanted: DrillRequest, held: list[str], views: Mapping[str, NodeView]
    ) -> Iterator[str]:
        for name, view in views.items():
            if view.fault is not None and view.fault.active:
                yield f"{name} still does {view.fault.active}"
        if wanted.kind == "switchover" or len(held) != 1:
            return
        fault = views[held[0]].fault
        if fault is None:
            yield f"tandem-fault does not run on {held[0]}"
        elif wanted.kind not in fault.kinds:
            missing = "; set drill.fence" if wanted.kind == "node-kill" else ""
            yield f"{held[0]} cannot do {wanted.kind}{missing}"

    def _source(
        self, wanted: DrillRequest, held: list[str], views: Mapping[str, NodeView]
    ) -> tuple[str, str]:
        """Who sends the load, and why nobody can."""
        clients = self.known_clients(views)
        third = [name for name in views if name not in held] if len(views) > 2 else []
        name = wanted.source
        if name is None:
            if len(clients) == 1:
                return clients[0], ""
            if clients:
                return "", f"source: name one of these clients: {', '.join(clients)}"
            if third:
                return third[-1], ""
            return "", f"no client is there that could send it; {_HOW}"
        if name in views and name not in third:
            why = "holds the VIP" if name in held else "would take over"
            return "", f"{name} {why}, so it cannot send the load; {_HOW}"
        if name in views or name in clients:
            return name, ""
        there = ", ".join(clients) or "none"
        return "", f"no client {name!r} has asked for orders lately (there: {there}); {_HOW}"


def _check(name: str, wrong: Any, detail: str = "") -> Check:
    reasons = list(wrong)
    return Check(name=name, ok=not reasons, detail="; ".join(reasons) or detail)


def _unwell(views: Mapping[str, NodeView], vip: str) -> Iterator[str]:
    for name, view in views.items():
        if reason := unfit(view, vip):
            yield f"{name} {reason}"
        if view.balanced is False:
            yield f"the ledger of {name} does not balance"
    if len(views) < 2:
        yield "no other node could take over"


def _no_one_holder(vip: str, held: list[str]) -> Iterator[str]:
    if len(held) != 1:
        yield f"{' and '.join(held)} hold {vip}" if held else f"no node that answers holds {vip}"


def _apart(views: Mapping[str, NodeView]) -> Iterator[str]:
    if len({v.config_sha256 for v in views.values()}) > 1:
        yield "the nodes are configured differently"
    if len({v.version for v in views.values()}) > 1:
        yield "the nodes' versions differ"
