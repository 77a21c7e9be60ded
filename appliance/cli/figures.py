"""The figures of the live view: rates and losses from what the collector writes each second."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.ledger.counters import COUNTERS
from appliance.state import StateError, StateReader

NODE_FILE = "node.json"
STALE_NS = 5 * 10**9
BRIDGE_NS = 5 * 10**9
"""Rates are of the last so many ns: the ledger on disk moves in steps of a checkpoint."""

LOSSES = tuple(
    c.name
    for c in COUNTERS
    if c.disposition and c.name not in ("datagrams_decoded", "datagrams_held")
)
"""Datagrams that arrived and were not, or not wholly, decoded."""


@dataclass(slots=True)
class Sender:
    """One exporter, all its protocols and domains together."""

    address: str
    protocols: set[str] = field(default_factory=set)
    datagrams: int = 0
    records: int = 0
    lost: int = 0
    """Units that the exporter's own numbering says never arrived."""
    damaged: int = 0
    """Datagrams that arrived and were not, or not wholly, decoded."""
    held: int = 0
    datagrams_rate: float = 0.0
    records_rate: float = 0.0


@dataclass(slots=True)
class Look:
    """What is to be seen at one moment. Rates are of the last few seconds."""

    now_ns: int
    problem: str = ""
    """Why there is nothing to see."""
    node: dict[str, Any] = field(default_factory=dict)
    senders: list[Sender] = field(default_factory=list)
    datagrams_rate: float = 0.0
    bits_rate: float = 0.0
    records_rate: float = 0.0
    kernel_dropped: int = 0
    lag_seconds: float = 0.0
    balanced: bool = True

    @property
    def lost(self) -> int:
        """Lost on the way, by sequence numbers, of all exporters."""
        return sum(s.lost for s in self.senders)

    @property
    def damaged(self) -> int:
        """Datagrams not, or not wholly, decoded, of all exporters."""
        return sum(s.damaged for s in self.senders)

    @property
    def held(self) -> int:
        """Datagrams that wait for a template."""
        return sum(s.held for s in self.senders)


class Figures:
    """Looks at a node's files, again and again."""

    def __init__(self, data_dir: Path, state: StateReader) -> None:
        self._data_dir = data_dir
        self._state = state
        self._past: deque[Look] = deque()

    def look(self, now_ns: int | None = None) -> Look:
        """The figures of now."""
        now = time.time_ns() if now_ns is None else now_ns
        look = Look(now)
        try:
            look.node = json.loads((self._data_dir / NODE_FILE).read_bytes())
        except FileNotFoundError:
            look.problem = f"no collector runs with {self._data_dir}: start one with `tandem run`"
            return look
        except (OSError, ValueError) as error:
            look.problem = f"{self._data_dir / NODE_FILE} cannot be read: {error}"
            return look
        if now - look.node["updated_ns"] > STALE_NS:
            look.problem = "the collector has said nothing for a while: it has stopped, or hangs"
        listeners = look.node.get("listeners", [])
        shards = look.node.get("shards", [])
        look.kernel_dropped = sum(entry["kernel_dropped"] for entry in listeners)
        look.lag_seconds = max((s.get("lag_seconds", 0.0) for s in shards), default=0.0)
        look.balanced = all(s.get("balanced", True) for s in shards)
        self._count(look)
        if self._past:
            _compare(look, self._past[0])
        self._past.append(look)
        # at least one look to compare with, and no more than are needed to bridge checkpoints
        while len(self._past) > 1 and self._past[1].now_ns <= now - BRIDGE_NS:
            self._past.popleft()
        return look

    def _count(self, look: Look) -> None:
        """The ledger, by exporter."""
        try:
            view = self._state.ledger()
        except StateError as error:
            look.problem = str(error)
            return
        senders: dict[str, Sender] = {}
        for row in view.table.to_pylist():
            one = senders.setdefault(row["exporter"], Sender(row["exporter"]))
            one.protocols.add(row["protocol"])
            one.datagrams += row["datagrams_received"]
            one.records += row["records_decoded"]
            one.lost += row["sequence_lost"]
            one.damaged += sum(row[name] for name in LOSSES)
            one.held += row["datagrams_held"]
        look.senders = list(senders.values())


def _compare(look: Look, past: Look) -> None:
    """Rates, from what has changed since ``past``."""
    seconds = (look.now_ns - past.now_ns) / 1e9
    if seconds <= 0:
        return
    look.datagrams_rate = _grown(look, past, "datagrams") / seconds
    look.bits_rate = _grown(look, past, "bytes") * 8 / seconds
    before = {s.address: s for s in past.senders}
    for sender in look.senders:
        old = before.get(sender.address, Sender(sender.address))
        sender.datagrams_rate = max(sender.datagrams - old.datagrams, 0) / seconds
        sender.records_rate = max(sender.records - old.records, 0) / seconds
    look.records_rate = sum(s.records_rate for s in look.senders)


def _grown(look: Look, past: Look, name: str) -> int:
    """By how much a counter of all listeners has grown; it begins anew with the workers."""
    now, before = (
        sum(entry[name] for entry in one.node.get("listeners", [])) for one in (look, past)
    )
    return int(now - before if now >= before else now)
