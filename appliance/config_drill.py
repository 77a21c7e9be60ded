"""The table of drills: ``[drill]``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, field_validator

from appliance.config_types import FilePath, Table, wrong

DrillKind = Literal[
    "switchover",
    "collector-kill",
    "collector-hang",
    "keepalived-stop",
    "haproxy-stop",
    "partition",
    "node-kill",
]
KINDS: tuple[DrillKind, ...] = get_args(DrillKind)


class Objective(Table):
    """``[[drill.objective]]``: what is good enough for drills of one kind; absent: anything."""

    kind: DrillKind
    lost: int | None = Field(default=None, ge=0)
    """Datagrams that no node has."""
    gap_ms: float | None = Field(default=None, ge=0)
    """From sending the first lost datagram of a hole to sending the first after it."""
    first_datagram_ms: float | None = Field(default=None, ge=0)
    """From the fault to the arrival of the first datagram at another node."""


OBJECTIVES = (
    Objective(kind="switchover", lost=0),
    Objective(kind="collector-kill", lost=0),
    Objective(kind="collector-hang", lost=0, first_datagram_ms=1000),
    Objective(kind="keepalived-stop", gap_ms=15),
    Objective(kind="haproxy-stop", lost=0),
    Objective(kind="partition", gap_ms=350),
    Objective(kind="node-kill", gap_ms=60),
)
"""Those of docs/failover.md."""


class Drill(Table):
    """``[drill]``: deliberate failovers."""

    kinds: tuple[DrillKind, ...] = Field(default=KINDS, strict=False)
    """Those that are allowed; ``node-kill`` needs a ``fence``, too."""
    max_rate: int = Field(default=5000, ge=1, le=100_000)
    """Datagrams a second of a drill's load, at most."""
    fence: FilePath | None = None
    """The program that kills the node that it runs on; the node's name is its argument."""
    socket: FilePath = Path("/run/tandem-fault/socket")
    """Where the unit tandem-fault listens."""
    objective: tuple[Objective, ...] = Field(default=OBJECTIVES, strict=False)

    @field_validator("objective")
    @classmethod
    def _each_once(cls, value: tuple[Objective, ...]) -> tuple[Objective, ...]:
        for kind, count in Counter(o.kind for o in value).items():
            if count > 1:
                raise wrong(f"{count} objectives of {kind}", "join the tables")
        return value

    def objective_of(self, kind: DrillKind) -> Objective:
        """What is good enough for a drill of ``kind``."""
        return next((o for o in self.objective if o.kind == kind), Objective(kind=kind))
