"""``/v1/switchovers`` and ``/v1/operations``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from api.audit.watch import note
from api.caller import caller
from api.cluster import Observed
from api.drain import require_vip
from api.forward import forward
from api.operations.model import ENDED, Kept, Operation, State
from api.operations.operations import Operations
from api.problems import Problem, ProblemDocument

router = APIRouter(prefix="/v1", tags=["operations"])

_FOLLOWERS = 64
_KEEP_ALIVE_SECONDS = 10.0
_MOST_AHEAD_SECONDS = 366 * 86400


def running(request: Request) -> Operations:
    """The application's operations."""
    found: Operations = request.app.state.operations
    return found


Known = Annotated[Operations, Depends(running)]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Of requests with the same key only one begins something; the others get it",
    ),
]
Id = Annotated[str, Path(alias="id", max_length=80)]
_NONE: dict[int | str, dict[str, object]] = {
    404: {"model": ProblemDocument, "description": "There is no such operation"}
}
_REFUSED: dict[int | str, dict[str, object]] = {
    202: {
        "headers": {"Location": {"description": "The operation", "schema": {"type": "string"}}},
    },
    404: {"model": ProblemDocument, "description": "There is no such VIP, or no such node"},
    409: {
        "model": ProblemDocument,
        "description": "It cannot be done now: the cluster is paused, another operation runs, or "
        "the nodes are not fit for it",
    },
    503: {"model": ProblemDocument, "description": "It cannot be written"},
}


class SwitchoverRequest(BaseModel):
    """A switchover that is asked for."""

    model_config = ConfigDict(extra="forbid")

    vip: str | None = Field(
        None, max_length=63, examples=["v1"], description="May be left out where there is only one"
    )
    target: str | None = Field(
        None, max_length=63, examples=["n2"], description="The node that is to hold it; null: any"
    )
    at: AwareDatetime | None = Field(
        None, examples=["2026-01-01T03:00:00+01:00"], description="Not before; null: now"
    )
    deadline_seconds: float = Field(
        30, ge=1, le=600, description="If it has not moved by then, the request is taken back"
    )


@router.post(
    "/switchovers",
    summary="Move a VIP",
    status_code=HTTPStatus.ACCEPTED,
    responses=_REFUSED,
    response_model=Operation,
)
async def begin_switchover(
    request: Request,
    response: Response,
    observed: Observed,
    known: Known,
    wanted: Annotated[SwitchoverRequest, Body()],
    key: Key = None,
) -> Operation:
    """To another node, which is chosen if it is not named; no datagram is lost. What can be known
    to be in the way is refused; one with a time is looked at again when that has come.
    """
    vip = wanted.vip
    if vip is None:
        if len(observed.vips) != 1:
            names = ", ".join(v.name for v in observed.vips) or "none"
            raise Problem.parameter("vip", f"missing; there are: {names}")
        vip = observed.vips[0].name
    require_vip(observed, vip)
    not_before_ns = None
    if wanted.at is not None:
        ahead = wanted.at.timestamp() - observed.clock() / 1e9
        if not 0 < ahead < _MOST_AHEAD_SECONDS:
            raise Problem.parameter("at", "not in the future" if ahead <= 0 else "too far ahead")
        not_before_ns = int(wanted.at.timestamp() * 1e9)
    begun = await known.begin(
        "switchover",
        {"vip": vip, "target": wanted.target},
        caller(request).name,
        wanted.deadline_seconds,
        not_before_ns,
        key,
    )
    note(request, operation=begun.id)
    response.headers["Location"] = f"/v1/operations/{begun.id}"
    return begun


@router.get("/operations", summary="Operations, the newest first", response_model=list[Operation])
async def operations(
    known: Known,
    state: Annotated[State | None, Query(description="Only those")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> list[Kept]:
    """Of all nodes. The cluster keeps the last 500."""
    return [one for one in known.all() if state in (None, one.state)][:limit]


@router.get(
    "/operations/{id}", summary="An operation", responses=_NONE, response_model=Operation
)  # fmt: skip
async def operation(known: Known, id_: Id) -> Operation:
    """Any node can tell how far it is."""
    return known.get(id_)


@router.delete(
    "/operations/{id}",
    summary="Cancel an operation that has not begun",
    responses=_NONE
    | {
        409: {"model": ProblemDocument, "description": "It has begun"},
        502: {"model": ProblemDocument, "description": "The node that is to do it is not there"},
    },
    response_model=Operation,
)
async def cancel_operation(
    request: Request, observed: Observed, known: Known, id_: Id
) -> Operation | Response:
    """It ends as failed."""
    known_as = known.get(id_)
    if known_as.node != observed.name and known_as.state == "queued":
        return await forward(request, observed, known_as.node)
    return await known.cancel(id_, caller(request).name)


@router.get(
    "/operations/{id}/events",
    summary="Follow an operation",
    response_class=StreamingResponse,
    responses=_NONE
    | {
        200: {"content": {"text/event-stream": {}}, "description": "Until it has ended"},
        503: {"model": ProblemDocument, "description": "Too many follow already"},
    },
)
async def follow_operation(request: Request, known: Known, id_: Id) -> Response:
    """Server-sent events: each is named `operation`, its data the operation as it is then. The
    stream ends with the operation.
    """
    known.get(id_)
    following: set[object] = request.app.state.following
    if len(following) >= _FOLLOWERS:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "busy",
            "Too many follow operations",
            f"{_FOLLOWERS} do; ask for the operation now and then instead",
            headers={"Retry-After": "5"},
        )
    return StreamingResponse(
        _stream(known, id_, following),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


async def _stream(known: Operations, id_: str, following: set[object]) -> AsyncIterator[str]:
    mark = object()
    following.add(mark)
    try:
        states = known.follow(id_)
        number = 0
        waiting = asyncio.ensure_future(anext(states))
        while True:
            await asyncio.wait([waiting], timeout=_KEEP_ALIVE_SECONDS)
            if not waiting.done():
                yield ": still there\n\n"
                continue
            try:
                now = Operation.model_validate(waiting.result().model_dump())
            except (StopAsyncIteration, Problem):
                return
            number += 1
            yield f"id: {number}\nevent: operation\ndata: {now.model_dump_json()}\n\n"
            if now.state in ENDED:
                return
            waiting = asyncio.ensure_future(anext(states))
    finally:
        following.discard(mark)
        waiting.cancel()
