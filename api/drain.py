"""``/v1/nodes/{name}/drain``: ask a node to give its VIPs up, or no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.cluster import Observed
from api.forward import forward
from api.observer import Observer
from api.peers import Peer
from api.problems import FieldError, Problem, ProblemDocument
from api.views import DrainAnswer

router = APIRouter(prefix="/v1/nodes", tags=["cluster"])

_WRITE_SECONDS = 2.0
_ANSWERS: dict[int | str, dict[str, object]] = {
    404: {"model": ProblemDocument, "description": "There is no such node, or no such VIP"},
    409: {"model": ProblemDocument, "description": "No other node could take over"},
    502: {"model": ProblemDocument, "description": "The node does not answer"},
    503: {"model": ProblemDocument, "description": "The track file cannot be written"},
}


class Undrain(BaseModel):
    """Parameters of a drain's end."""

    # a misspelt `vip` must not drain the whole node
    model_config = ConfigDict(extra="forbid")

    vip: str | None = Field(None, max_length=63, description="Only this VIP", examples=["v1"])


class Drain(Undrain):
    """Parameters of a drain."""

    force: bool = Field(False, description="Even if no other node could take over")


@router.put("/{name}/drain", summary="Drain a node", responses=_ANSWERS, response_model=DrainAnswer)
async def drain(
    request: Request, observed: Observed, name: str, query: Annotated[Drain, Query()]
) -> DrainAnswer | Response:
    """The node asks keepalived to give its VIPs, or one of them, to another node. The answer comes
    at once: `holds` is what it still has. It stays so over restarts, until it is undone. Refused
    where no other node is reachable, collects, and is not drained itself.
    """
    _known(observed, name, query.vip)
    if name != observed.name:
        return await forward(request, observed, name)
    if not query.force and not _already(observed, query.vip):
        _refuse_to_leave_nobody(observed, query.vip)
    return await _set(observed, [query.vip], True)


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
    every = [None, *(v.name for v in observed.vips)]
    return await _set(observed, every if query.vip is None else [query.vip], False)


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
    view = peer.view
    if view is None:
        return f"does not answer: {peer.problem}"
    if not view.ready:
        return f"does not collect: {'; '.join(view.reasons)}"
    if view.drain.of(vip):
        return "is drained itself"
    if view.keepalived is not None and view.keepalived.up is False:
        return "runs no keepalived"
    return ""


async def _set(observed: Observer, vips: Iterable[str | None], drained: bool) -> DrainAnswer:
    def write() -> None:
        for vip in vips:
            observed.drain.set(vip, drained)

    try:
        async with asyncio.timeout(_WRITE_SECONDS):
            await asyncio.to_thread(write)
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
    return DrainAnswer(node=observed.name, drained=view.node, vips=view.vips, holds=holds)
