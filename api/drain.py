"""``/v1/nodes/{name}/drain``: ask a node to give its VIPs up, or no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.cluster import Observed
from api.forward import forward
from api.observer import Observer
from api.peers import Peer
from api.problems import FieldError, Problem, ProblemDocument
from api.views import DrainAnswer, NodeView

router = APIRouter(prefix="/v1/nodes", tags=["cluster"])

_WRITE_SECONDS = 2.0
_ANSWERS: dict[int | str, dict[str, object]] = {
    404: {"model": ProblemDocument, "description": "There is no such node, or no such VIP"},
    409: {"model": ProblemDocument, "description": "No other node could take over"},
    502: {"model": ProblemDocument, "description": "The node does not answer"},
    503: {"model": ProblemDocument, "description": "The track file cannot be written"},
}


class _Parameters(BaseModel):
    # a misspelt `vip` must not drain the whole node
    model_config = ConfigDict(extra="forbid")

    vip: str | None = Field(None, max_length=63, description="Only this VIP", examples=["v1"])


class Undrain(_Parameters):
    """Parameters of a drain's end."""

    timed: bool = Field(False, description="Only if it would end by itself")


class Drain(_Parameters):
    """Parameters of a drain."""

    force: bool = Field(False, description="Even if no other node could take over")
    seconds: float | None = Field(
        None, gt=0, le=86400, description="It ends by itself after so long", examples=[600]
    )


@router.put("/{name}/drain", summary="Drain a node", responses=_ANSWERS, response_model=DrainAnswer)
async def drain(
    request: Request, observed: Observed, name: str, query: Annotated[Drain, Query()]
) -> DrainAnswer | Response:
    """The node asks keepalived to give its VIPs, or one of them, to another node. The answer comes
    at once: `holds` is what it still has. It stays so over restarts, until it is undone, or until
    `seconds` have passed. Refused where no other node is reachable, collects, and is not drained
    itself.
    """
    _known(observed, name, query.vip)
    if name != observed.name:
        return await forward(request, observed, name)
    if not query.force and not _already(observed, query.vip):
        _refuse_to_leave_nobody(observed, query.vip)
    until_ns = None
    if query.seconds is not None:
        until_ns = observed.clock() + int(query.seconds * 1e9)
    return await drain_here(observed, query.vip, until_ns)


@router.delete(
    "/{name}/drain", summary="End a drain", responses=_ANSWERS, response_model=DrainAnswer
)
async def undrain(
    request: Request, observed: Observed, name: str, query: Annotated[Undrain, Query()]
) -> DrainAnswer | Response:
    """The node may hold VIPs again; none moves because of it. Without `vip`, drains of single VIPs
    end as well.
    """
    _known(observed, name, query.vip)
    if name != observed.name:
        return await forward(request, observed, name)
    return await undrain_here(observed, query.vip, query.timed)


async def drain_here(observed: Observer, vip: str | None, until_ns: int | None) -> DrainAnswer:
    """Drain this node, until then if that is not None; raises a problem."""
    return await _set(observed, lambda: observed.drain.set(vip, True, until_ns))


async def undrain_here(observed: Observer, vip: str | None, timed: bool) -> DrainAnswer:
    """End a drain of this node, or only one that would end by itself; raises a problem."""

    def undo() -> int:
        time_ns = observed.clock()
        for one in [None, *(v.name for v in observed.vips)] if vip is None else [vip]:
            if not timed or observed.drain.until_ns(one) is not None:
                time_ns = observed.drain.set(one, False)
        return time_ns

    return await _set(observed, undo)


def _known(observed: Observer, name: str, vip: str | None) -> None:
    if name != observed.name and name not in observed.peers:
        nodes = ", ".join(sorted([observed.name, *observed.peers]))
        raise _missing(f"there is no node {name!r}; there are: {nodes}")
    require_vip(observed, vip)


def require_vip(observed: Observer, vip: str | None) -> None:
    """Refuse a VIP that is not configured."""
    names = [v.name for v in observed.vips]
    if vip is not None and vip not in names:
        raise _missing(f"there is no VIP {vip!r}; there are: {', '.join(names) or 'none'}")


def _missing(detail: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "unknown", "There is no such thing", detail)


def _already(observed: Observer, vip: str | None) -> bool:
    view = observed.drain.view
    return view.node if vip is None else view.of(vip)


def _refuse_to_leave_nobody(observed: Observer, vip: str | None) -> None:
    """Raise a problem where no other node could take what this one gives up."""
    for one in [v.name for v in observed.vips] if vip is None else [vip]:
        reasons = {name: _unfit(peer, one) for name, peer in observed.peers.items()}
        if all(reasons.values()):
            words = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
            raise Problem(
                HTTPStatus.CONFLICT,
                "nobody-left",
                "No other node could take over",
                f"{one}: {words or f'{observed.name} is alone'}; force=true drains all the same",
                [FieldError(field=name, reason=reason) for name, reason in reasons.items()],
            )


def _unfit(peer: Peer, vip: str) -> str:
    """Why ``peer`` could not take ``vip``; empty if it could."""
    if peer.view is None:
        return f"does not answer: {peer.problem}"
    return unfit(peer.view, vip)


def unfit(view: NodeView, vip: str) -> str:
    """Why a node that answers could not take ``vip``; empty if it could."""
    if not view.ready:
        return f"does not collect: {'; '.join(view.reasons)}"
    if view.drain.of(vip):
        return "is drained itself"
    if view.keepalived is not None and view.keepalived.up is False:
        return "runs no keepalived"
    return ""


async def _set(observed: Observer, write: Callable[[], int]) -> DrainAnswer:
    try:
        async with asyncio.timeout(_WRITE_SECONDS):
            time_ns = await asyncio.to_thread(write)
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or f"not within {_WRITE_SECONDS:g} s"
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "not-written",
            "The track file cannot be written",
            f"{observed.config.api.state_dir}: {reason}",
        ) from None
    view = observed.drain.view
    holds = [v.name for v in observed.vips if observed.addresses.held(v.name)]
    return DrainAnswer(
        node=observed.name,
        drained=view.node,
        vips=view.vips,
        holds=holds,
        time_ns=time_ns,
    )
