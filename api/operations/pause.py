"""``/v1/pause``: nothing is to be begun through the API, while VRRP goes on."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Request
from pydantic import BaseModel, ConfigDict, Field

from api.caller import caller
from api.cluster import Observed
from api.operations.paused import KEY, pause_of
from api.problems import ProblemDocument
from api.views import PauseView

router = APIRouter(prefix="/v1/pause", tags=["operations"])

_UNWRITTEN: dict[int | str, dict[str, object]] = {
    503: {"model": ProblemDocument, "description": "It cannot be written"}
}


class Pause(BaseModel):
    """A pause that is asked for."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=500, examples=["switches are replaced"])
    seconds: float | None = Field(
        None, gt=0, le=30 * 86400, examples=[7200], description="It ends by itself after so long"
    )


@router.get("", summary="Whether the cluster is paused")
async def paused(observed: Observed) -> PauseView:
    """While it is, no switchover begins, at once or by schedule."""
    return pause_of(observed.register, observed.clock()) or PauseView(paused=False)


@router.put("", summary="Pause the cluster", responses=_UNWRITTEN)
async def pause(
    request: Request, observed: Observed, wanted: Annotated[Pause, Body()]
) -> PauseView:
    """What runs goes on. VIPs still move when a node or its collector fails."""
    now = observed.clock()
    until = None if wanted.seconds is None else now + int(wanted.seconds * 1e9)
    view = PauseView(
        paused=True,
        reason=wanted.reason,
        by=caller(request).name,
        since_ns=now,
        until_ns=until,
    )
    await observed.register.put("pause", KEY, view.model_dump())
    await observed.replicator.told()
    return view


@router.delete("", summary="End the pause", responses=_UNWRITTEN)
async def end_pause(observed: Observed) -> PauseView:
    """It is no error if there is none."""
    if observed.register.get("pause", KEY) is not None:
        await observed.register.put("pause", KEY, None)
        await observed.replicator.told()
    return PauseView(paused=False)
