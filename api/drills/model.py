"""What is asked for, what is ordered from whoever sends the load, and the report."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from api.operations.model import Event, Operation
from api.views import View
from appliance.config_drill import DrillKind

RECORDS: Final = 2
"""Flow records of a datagram of the load."""
STEP_MS: Final = 100
"""Of the series for plots."""


class DrillRequest(BaseModel):
    """A drill that is asked for."""

    model_config = ConfigDict(extra="forbid")

    kind: DrillKind = Field(examples=["keepalived-stop"])
    vip: str | None = Field(
        None, max_length=63, examples=["v1"], description="May be left out where there is only one"
    )
    source: str | None = Field(
        None,
        max_length=63,
        examples=["probe"],
        description="Who sends the load: a client (`tandem drill client`), or a node that can take "
        "no part; null: the one that there is",
    )
    rate: int = Field(1000, ge=1, description="Datagrams a second")
    seconds: float = Field(12, ge=8, le=60, description="How long the load lasts")
    dry_run: bool = Field(False, description="Only say whether it could begin, and why not")


class Check(View):
    """Something that has to be so before a drill begins."""

    name: str = Field(examples=["clocks"])
    ok: bool = Field(examples=[True])
    detail: str = Field("", examples=["within 0.002 s of each other"])


class Preflight(View):
    """Whether a drill could begin."""

    ok: bool = Field(examples=[True])
    checks: list[Check]


class Order(View):
    """The load that somebody is to send, once and at once."""

    id: str = Field(examples=["18bd2c7a5f3e1a00-5d41"], description="Of the drill")
    source: str = Field(examples=["probe"])
    address: str = Field(examples=["192.0.2.100"])
    port: int = Field(examples=[4739])
    domain: int = Field(examples=[4294836224], description="Observation domain")
    rate: int = Field(examples=[1000], description="Datagrams a second")
    seconds: float = Field(examples=[12])
    records: int = RECORDS


class Sent(View):
    """What a source hands in."""

    log: dict[str, Any] | None = Field(None, description="As appliance.drill.sendlog has it")
    problem: str = Field("", max_length=500, description="Why there is none")


class NodeFigures(View):
    """What one node has of the load, in datagrams."""

    node: str = Field(examples=["n1"])
    stored: int = Field(examples=[2031], description="Each counted once")
    duplicated: int = Field(examples=[0], description="Stored once too often")
    partly: int = Field(examples=[0], description="Of which only some flow records are stored")
    received: int | None = Field(description="By the node's ledger")
    named_losses: int | None = Field(description="Received and not stored, by its ledger")


class ExporterFigures(View):
    """One exporter at one node, while the drill went on; by the node's ledger."""

    exporter: str = Field(examples=["192.0.2.1"])
    protocol: str = Field(examples=["NETFLOW_V9"])
    domain: int = Field(examples=[0])
    node: str = Field(examples=["n1"])
    received: int = Field(examples=[120], description="Datagrams")
    stored: int = Field(examples=[2880], description="Flow records")
    named_losses: int = Field(examples=[0], description="Datagrams")
    duplicates: int = Field(examples=[0], description="Datagrams")
    sequence_lost: int | None = Field(
        description="Lost on the way, in the protocol's unit; null where the numbers began anew at "
        "this node, so that what was sent to another one would be taken for lost"
    )


class Hole(View):
    """Consecutive datagrams that no node has."""

    after_fault_ms: float = Field(examples=[1.2], description="When the first of them was sent")
    datagrams: int = Field(examples=[12])
    gap_ms: float = Field(
        examples=[12.1], description="From sending the first to sending the first after it"
    )
    to_the_end: bool = Field(False, description="Nothing came after it")


class Series(View):
    """Datagrams by the time of sending."""

    begin_ns: int = Field(examples=[1767229200000000000])
    step_ms: int = STEP_MS
    sent: list[int]
    stored: dict[str, list[int]] = Field(examples=[{"n1": [100], "n2": [0]}])


class Report(View):
    """What became of a drill. Milliseconds count from the fault; null: see `unmeasured`."""

    id: str = Field(examples=["18bd2c7a5f3e1a00-5d41"])
    kind: DrillKind = Field(examples=["keepalived-stop"])
    vip: str = Field(examples=["v1"])
    cluster: str = Field(examples=["lab"])
    by: str = Field(examples=["ansible"])
    source: str = Field(examples=["probe"], description="Who sent the load")
    exporters: list[str] = Field(description="Its addresses, as the nodes saw them")
    domain: int = Field(examples=[4294836224], description="Its observation domain")
    rate: int = Field(examples=[1000], description="Asked for, in datagrams a second")
    before: str = Field(examples=["n1"], description="The node that held the VIP")
    after: str | None = Field(description="The node that holds it in the end")
    fault_ns: int = Field(examples=[1767229200000000000])
    detection_ms: float | None = Field(description="Until a node took notice")
    vip_move_ms: float | None = Field(description="Until the kernel of another node had the VIP")
    first_datagram_ms: float | None = Field(description="Until one came to another node")
    first_flow_ms: float | None = Field(description="Until a flow record was on disk there")
    longest_gap_ms: float = Field(examples=[12.1])
    restored_ms: float | None = Field(description="Until all nodes were well again")
    clock_uncertainty_ms: float = Field(
        examples=[0.4], description="How well the nodes' clocks could be compared"
    )
    unmeasured: dict[str, str] = Field(examples=[{}], description="Why a figure is null")
    sent: int = Field(examples=[12000])
    stored: int = Field(
        examples=[11988], description="By at least one node, all their flow records"
    )
    lost: int = Field(examples=[12])
    duplicated: int = Field(examples=[0], description="Stored once too often by the same node")
    on_several_nodes: int = Field(examples=[0])
    nodes: list[NodeFigures]
    holes: list[Hole] = Field(description="The longest 20, in the order of sending")
    others: list[ExporterFigures] = Field(description="Other exporters; the 200 with most losses")
    of_others: int = Field(examples=[0], description="How many there are")
    objective: dict[str, float | str | None] = Field(examples=[{"lost": 0}])
    exceeded: list[str] = Field(description="Objectives that were missed")
    problems: list[str] = Field(description="What does not agree, or is not well again")
    passed: bool = Field(examples=[True])
    series: Series
    events: list[Event]


class Drill(View):
    """A drill: how far it is, and its report once there is one."""

    operation: Operation
    report: Report | None = None


class Difference(View):
    """One figure of two drills."""

    name: str = Field(examples=["lost"])
    one: float | str | None
    other: float | str | None
    change: float | None = None
