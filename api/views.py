"""What the API says of a node and of the cluster: the documents that answer and that peers read.

A peer may be of another version: what it says besides is ignored, and what it does not say has a
default that means "not known".
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from api.node_file import NodeDocument
from api.observe.haproxy import ProxyState
from api.observe.health_file import HealthState
from api.observe.host import DiskState, HostState

Role = Literal["active", "standby", "draining", "fault", "unknown"]


class View(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class Transition(View):
    """A VIP came to a node, or left it."""

    time_ns: int = Field(examples=[1767229200000000000])
    node: str = Field(examples=["n2"], description="The node that it came to, or left")
    vip: str = Field(examples=["v1"])
    before: str = Field(alias="from", examples=["standby"])
    after: str = Field(alias="to", examples=["active"])
    cause: str = Field("unknown", examples=["peer draining"])
    detail: str = Field("", examples=["n1"])


class VipView(View):
    """A VIP, as this node sees it."""

    vip: str = Field(examples=["v1"])
    addresses: list[str] = Field([], examples=[["10.77.0.101", "fd77::101"]])
    role: Role = Field("unknown", examples=["active"])
    held: bool | None = Field(
        None, examples=[True], description="Whether the kernel has all its addresses, not on lo"
    )
    since_ns: int | None = Field(
        None, examples=[1767229200000000000], description="Since when, as far as the API knows"
    )
    keepalived: str | None = Field(
        None, examples=["MASTER"], description="What keepalived said last, if anything"
    )
    agrees: bool | None = Field(
        None, examples=[True], description="Whether that is what the kernel says"
    )
    drained: bool = Field(False, examples=[False], description="Whether it is asked to give it up")


class DrainView(View):
    """What the node is asked to give up."""

    node: bool = Field(False, examples=[False], description="All VIPs")
    vips: list[str] = Field([], examples=[["v2"]], description="These VIPs")

    def of(self, vip: str) -> bool:
        """Whether ``vip`` is to be given up."""
        return self.node or vip in self.vips


class Program(View):
    """A program beside the collector."""

    up: bool | None = Field(None, examples=[True], description="null: not known")
    problem: str = Field("", examples=[""])


class Proxy(Program):
    """HAProxy."""

    state: ProxyState | None = None


class AuditHead(View):
    """The newest line of an audit log."""

    number: int = Field(0, ge=0, examples=[7])
    sha256: str = Field("0" * 64, examples=["60303ae22b998861…"])


class FaultView(View):
    """The unit that makes the faults of drills."""

    kinds: list[str] = Field([], examples=[["keepalived-stop"]], description="What it can do")
    active: str | None = Field(None, examples=[None], description="What it does now")


class NodeView(View):
    """A node."""

    name: str = Field(examples=["n1"])
    time_ns: int = Field(examples=[1767229200000000000], description="The node's clock")
    cluster: str | None = Field(None, examples=["lab"])
    version: str = Field("", examples=["0.1.0"])
    started_ns: int = Field(0, examples=[1767225600000000000], description="Start of the API")
    config_sha256: str = Field(
        "", examples=["9f86d081884c7d65…"], description="Of what all nodes must have in common"
    )
    register_sha256: str = Field(
        "", examples=["2c26b46b68ffc68f…"], description="Of what all nodes know alike"
    )
    audit: AuditHead | None = Field(None, description="null: it keeps no audit log")
    ready: bool = Field(False, examples=[True], description="Whether it collects")
    reasons: list[str] = Field([], examples=[[]], description="Why it does not")
    vips: list[VipView] = []
    drain: DrainView = DrainView()
    health: HealthState | None = Field(None, description="The health unit's verdict, if one runs")
    balanced: bool | None = Field(
        None, examples=[True], description="Whether the ledger adds up; null: not known"
    )
    disk: DiskState | None = None
    host: HostState | None = None
    keepalived: Program | None = None
    haproxy: Proxy | None = None
    collector: NodeDocument | None = Field(None, description="As the collector said it last")
    collector_problem: str = Field("", examples=[""], description="Why `collector` is null")
    fault: FaultView | None = Field(None, description="null: tandem-fault does not answer")
    drill_clients: list[str] = Field(
        [], examples=[["probe"]], description="That asked this node for orders a moment ago"
    )
    transitions: list[Transition] = Field([], description="The last ones of this node")

    def vip(self, name: str) -> VipView:
        """What it says of the VIP ``name``."""
        return next((v for v in self.vips if v.vip == name), VipView(vip=name))


class MemberView(View):
    """A node of the cluster, as the node that answers knows it."""

    name: str = Field(examples=["n2"])
    address: str = Field(examples=["10.77.0.12"])
    reachable: bool = Field(examples=[True])
    since_ns: int = Field(examples=[1767225600000000000], description="Since when it is, or is not")
    problem: str = Field("", examples=[""], description="Why it is not reachable")
    roles: dict[str, Role] = Field({}, examples=[{"v1": "standby", "v2": "active"}])
    ready: bool | None = Field(None, examples=[True])
    health: str | None = Field(None, examples=["ok"])
    drain: DrainView | None = None
    version: str | None = Field(None, examples=["0.1.0"])
    config_sha256: str | None = Field(None, examples=["9f86d081884c7d65…"])
    clock_offset_seconds: float | None = Field(
        None, examples=[0.0004], description="Its clock minus that of the node that answers"
    )
    balanced: bool | None = Field(None, examples=[True])
    disk: DiskState | None = None
    load1: float | None = Field(None, examples=[0.42])
    cpus: int | None = Field(None, examples=[2])
    uptime_seconds: int | None = Field(None, examples=[86400])


class ClusterVip(View):
    """Who holds a VIP."""

    vip: str = Field(examples=["v1"])
    addresses: list[str] = Field(examples=[["10.77.0.101", "fd77::101"]])
    holders: list[str] = Field(examples=[["n1"]], description="One, when all is well")


class PauseView(View):
    """Whether nothing is to be begun through the API."""

    paused: bool = Field(examples=[True])
    reason: str = Field("", examples=["switches are replaced"])
    by: str = Field("", examples=["ansible"])
    since_ns: int | None = Field(None, examples=[1767229200000000000])
    until_ns: int | None = Field(
        None, examples=[1767236400000000000], description="When it ends by itself; null: never"
    )


class ClusterView(View):
    """All nodes, as the one that answers knows them."""

    cluster: str | None = Field(examples=["lab"])
    node: str = Field(examples=["n1"], description="The node that answers")
    time_ns: int = Field(examples=[1767229200000000000])
    nodes: list[MemberView]
    vips: list[ClusterVip]
    pause: PauseView | None = Field(None, description="null: it is not paused")
    problems: list[str] = Field(examples=[[]], description="What is wrong, each a sentence")


class FailoverVip(View):
    """The state of a VIP on the node that answers, and who holds it."""

    vip: str = Field(examples=["v1"])
    role: Role = Field(examples=["active"])
    held: bool | None = Field(None, examples=[True], description="Whether this node has it")
    since_ns: int | None = Field(examples=[1767229200000000000])
    holders: list[str] = Field(examples=[["n1"]])


class FailoverView(View):
    """Where the VIPs are, and how they came there."""

    node: str = Field(examples=["n1"])
    vips: list[FailoverVip]
    history: list[Transition] = Field(description="Newest first; of other nodes, the last few")


class DrainAnswer(View):
    """What a node is asked to give up, and what it still has."""

    node: str = Field(examples=["n1"])
    drained: bool = Field(examples=[True], description="All VIPs are to be given up")
    vips: list[str] = Field(examples=[[]], description="These are to be given up, besides")
    holds: list[str] = Field(examples=[["v1"]], description="VIPs that it still holds")
    time_ns: int = Field(
        0, examples=[1767229200000000000], description="When keepalived was asked, by its clock"
    )
