"""``/v1/audit``: who changed what, on all nodes."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field, ValidationError

from api.access import from_peer
from api.audit.record import Record
from api.cluster import Observed
from api.gate import Gate
from api.observer import Observer
from api.peers import Peer, PeerFailed
from api.views import View

router = APIRouter(prefix="/v1/audit", tags=["access"])

_NOT_KEPT = "it keeps none: it has no [cluster]"


class AuditState(View):
    """The audit log of a node."""

    node: str = Field(examples=["n1"])
    whole: bool | None = Field(
        examples=[True], description="false: lines are gone, or not as they were; null: not known"
    )
    problem: str = Field("", examples=[""], description="Why it is not whole, or not known")


class AuditView(View):
    """What the nodes remember."""

    nodes: list[AuditState] = Field(examples=[[{"node": "n1", "whole": True, "problem": ""}]])
    records: list[Record] = Field(description="Newest first")


@router.get("", summary="Who changed what")
async def audit(
    request: Request,
    observed: Observed,
    limit: Annotated[int, Query(ge=1, le=1000, description="Records")] = 100,
) -> AuditView:
    """Every request that was to change something, by whom, and what came of it; and clients that
    were refused because they are not known. All nodes are asked; each keeps what it was asked for.
    """
    gate: Gate = request.app.state.reads
    views = [_own(observed, limit, gate)]
    if not from_peer(request):
        views += [_of(peer, limit) for peer in observed.peers.values()]
    found = await asyncio.gather(*views)
    records = [record for view in found for record in view.records]
    records.sort(key=lambda record: record.time_ns, reverse=True)
    return AuditView(nodes=[n for view in found for n in view.nodes], records=records[:limit])


async def _own(observed: Observer, limit: int, gate: Gate) -> AuditView:
    if observed.audit.head is None:
        return _nothing(observed.name, _NOT_KEPT)
    try:
        records, problem = await gate.run(lambda: observed.audit.read(limit))
    except OSError as error:
        return _nothing(observed.name, f"it cannot be read: {error.strerror}")
    state = AuditState(node=observed.name, whole=not problem, problem=problem)
    return AuditView(nodes=[state], records=records[::-1])


async def _of(peer: Peer, limit: int) -> AuditView:
    try:
        answer = await peer.request("GET", "/v1/audit", {"limit": str(limit)})
    except PeerFailed as failed:
        return _nothing(peer.name, f"the node does not answer: {failed}")
    if answer.status_code != HTTPStatus.OK:
        return _nothing(peer.name, f"the node answers with status {answer.status_code}")
    try:
        view = AuditView.model_validate_json(answer.content)
    except ValidationError:
        return _nothing(peer.name, "its answer is no audit log")
    if peer.audit_cut:
        view.nodes = [AuditState(node=peer.name, whole=False, problem=peer.audit_cut)]
    return view


def _nothing(node: str, problem: str) -> AuditView:
    return AuditView(nodes=[AuditState(node=node, whole=None, problem=problem)], records=[])
