"""``/v1/cluster`` and ``/v1/failover``: all nodes, where the VIPs are, and how they came there."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from api.observer import Observer
from api.operations.paused import pause_of
from api.problems import ProblemDocument
from api.troubles import problems
from api.views import (
    ClusterView,
    ClusterVip,
    FailoverView,
    FailoverVip,
    MemberView,
    NodeView,
    Transition,
)

router = APIRouter(prefix="/v1", tags=["cluster"])


def observer(request: Request) -> Observer:
    """What the application knows."""
    found: Observer = request.app.state.observer
    return found


Observed = Annotated[Observer, Depends(observer)]


@router.get("/node", summary="This node", tags=["node"])
async def node(observed: Observed) -> NodeView:
    """Its role for each VIP, its health, its programs, and the collector's processes, listeners and
    shards as the collector said them last; `collector` is null, with the reason, while it does not.
    """
    return observed.view()


@router.get("/cluster", summary="All nodes")
async def cluster(observed: Observed) -> ClusterView:
    """As this node knows them: each node asks the others once a second. `problems` is empty when
    all is well.
    """
    return cluster_view(observed)


@router.get(
    "/failover",
    summary="Where the VIPs are, and how they came there",
    responses={422: {"model": ProblemDocument, "description": "`limit` is not valid"}},
)
async def failover(
    observed: Observed, limit: Annotated[int, Query(ge=1, le=1000, description="Transitions")] = 100
) -> FailoverView:
    """`history` has this node's transitions, and the last few of the nodes that can be reached. A
    cause may follow some seconds after the transition.
    """
    view = observed.view()
    held = holders(observed, view)
    found: list[Transition] = observed.tracker.history.all()
    for peer in observed.peers.values():
        found += peer.view.transitions if peer.view else []
    found.sort(key=lambda t: t.time_ns, reverse=True)
    return FailoverView(
        node=observed.name,
        vips=[
            FailoverVip(
                vip=v.vip, role=v.role, held=v.held, since_ns=v.since_ns, holders=held[v.vip]
            )
            for v in view.vips
        ],
        history=found[:limit],
    )


def cluster_view(observed: Observer) -> ClusterView:
    """All nodes, and what is wrong."""
    own = observed.view()
    config = observed.config.cluster
    held = holders(observed, own)
    nodes = [
        _member(observed, n.name, str(n.address), own) for n in (config.node if config else ())
    ] or [_member(observed, own.name, str(observed.config.api.address), own)]
    views = {own.name: own} | {
        name: peer.view for name, peer in observed.peers.items() if peer.view is not None
    }
    vips = [ClusterVip(vip=v.vip, addresses=v.addresses, holders=held[v.vip]) for v in own.vips]
    return ClusterView(
        cluster=own.cluster,
        node=own.name,
        time_ns=own.time_ns,
        nodes=nodes,
        vips=vips,
        pause=pause_of(observed.register, observed.clock()),
        problems=problems(nodes, vips, views),
    )


def holders(observed: Observer, own: NodeView) -> dict[str, list[str]]:
    """The nodes that say they hold a VIP, by VIP."""
    views = [own, *(p.view for p in observed.peers.values() if p.view is not None)]
    return {
        vip.name: sorted(view.name for view in views if view.vip(vip.name).held)
        for vip in observed.vips
    }


def _member(observed: Observer, name: str, address: str, own: NodeView) -> MemberView:
    peer = observed.peers.get(name)
    view = own if peer is None else peer.view
    member = MemberView(
        name=name,
        address=address,
        reachable=True if peer is None else peer.reachable,
        since_ns=own.started_ns if peer is None else peer.since_ns,
        problem="" if peer is None or peer.reachable else peer.problem,
        roles={vip.name: view.vip(vip.name).role if view else "unknown" for vip in observed.vips},
        clock_offset_seconds=0.0 if peer is None else peer.clock_offset_seconds,
    )
    if view is None:
        return member
    return member.model_copy(
        update={
            "ready": view.ready,
            "health": view.health.state if view.health else None,
            "drain": view.drain,
            "version": view.version,
            "config_sha256": view.config_sha256,
            "balanced": view.balanced,
            "disk": view.disk,
            "load1": view.host.load1 if view.host else None,
            "cpus": view.host.cpus if view.host else None,
            "uptime_seconds": view.host.uptime_seconds if view.host else None,
        }
    )
