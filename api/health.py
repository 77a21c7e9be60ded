"""``/livez``, ``/readyz``, ``/active``, ``/standby``: answered by status code, from memory."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.cluster import Observed
from api.drain import require_vip
from api.observer import Observer
from api.problems import FieldError, Problem, ProblemDocument

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The API answers."""

    status: str = Field(examples=["alive"])


class Ready(BaseModel):
    """The node collects."""

    status: str = Field(examples=["ready"])
    node: str = Field(examples=["tandem-1"])
    warnings: list[str] = Field(
        description="What is wrong but does not keep the node from collecting", examples=[[]]
    )


class RoleAnswer(BaseModel):
    """The node has the role that was asked for."""

    status: str = Field(examples=["active"])
    node: str = Field(examples=["n1"])
    holds: list[str] = Field(description="The VIPs that it holds", examples=[["v1"]])


class OfVip(BaseModel):
    """Parameters of the role checks."""

    model_config = ConfigDict(extra="forbid")

    vip: str | None = Field(None, max_length=63, description="For this VIP", examples=["v1"])


def _not(what: str, reasons: str) -> dict[int | str, dict[str, object]]:
    return {
        404: {"model": ProblemDocument, "description": "There is no such VIP"},
        503: {"model": ProblemDocument, "description": f"It {what}; `detail` says {reasons}"},
    }


@router.get("/livez", summary="Does the API answer?")
async def livez() -> Alive:
    """Always 200; says nothing about the collector."""
    return Alive(status="alive")


@router.get(
    "/readyz",
    summary="Does the node collect?",
    responses={503: {"model": ProblemDocument, "description": "It does not; `detail` says why"}},
)
async def readyz(observed: Observed) -> Ready:
    """200 while the collector's processes run and listen, and the health unit finds them well; 503,
    with the reasons, if not.
    """
    _require_ready(observed)
    return Ready(status="ready", node=observed.name, warnings=observed.watcher.snapshot.warnings())


@router.get("/active", summary="Does the node hold a VIP?", responses=_not("does not", "which"))
async def active(observed: Observed, query: Annotated[OfVip, Query()]) -> RoleAnswer:
    """200 while the kernel has the addresses of a VIP, or of the one given; 503 if not."""
    require_vip(observed, query.vip)
    held = _held(observed)
    if query.vip in held or (query.vip is None and held):
        return RoleAnswer(status="active", node=observed.name, holds=held)
    raise _no("not-active", "The node does not hold it", [_why_not_held(observed, query.vip)])


@router.get(
    "/standby", summary="Could the node take a VIP over?", responses=_not("could not", "why")
)
async def standby(observed: Observed, query: Annotated[OfVip, Query()]) -> RoleAnswer:
    """200 while the node collects, is not drained, and holds no VIP, or not the one given."""
    require_vip(observed, query.vip)
    _require_ready(observed)
    held = _held(observed)
    wanted = [v.name for v in observed.vips] if query.vip is None else [query.vip]
    reasons = [f"it holds {vip}" for vip in wanted if vip in held]
    drained = observed.drain.view
    if drained.node or any(vip in drained.vips for vip in wanted):
        reasons.append("it is drained")
    unknown = [vip for vip in wanted if observed.addresses.held(vip) is None]
    if unknown:
        reasons.append(f"it is not known whether it holds {', '.join(unknown)}")
    if reasons:
        raise _no("not-standby", "The node is not a standby", reasons)
    return RoleAnswer(status="standby", node=observed.name, holds=held)


def _require_ready(observed: Observer) -> None:
    reasons = observed.unready()
    if reasons:
        raise _no("not-ready", "The node does not collect", reasons)


def _held(observed: Observer) -> list[str]:
    return [v.name for v in observed.vips if observed.addresses.held(v.name)]


def _why_not_held(observed: Observer, vip: str | None) -> str:
    if not observed.vips:
        return "no VIP is configured: this node is alone"
    wanted = [v.name for v in observed.vips] if vip is None else [vip]
    if all(observed.addresses.held(v) is None for v in wanted):
        return observed.addresses.problem or "the kernel's addresses were not read for a while"
    roles = [f"{v.vip} {v.role}" for v in map(observed.vip, observed.vips) if v.vip in wanted]
    return f"it holds {'no VIP' if vip is None else f'not {vip}'}: {', '.join(roles)}"


def _no(kind: str, title: str, reasons: list[str]) -> Problem:
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        kind,
        title,
        "; ".join(reasons),
        [FieldError(field="node", reason=reason) for reason in reasons],
    )


async def methods(request: Request) -> Response:
    """What a health check may be asked with."""
    return Response(status_code=204, headers={"Allow": "GET, HEAD, OPTIONS"})


for _path, _check in (
    ("/livez", livez),
    ("/readyz", readyz),
    ("/active", active),
    ("/standby", standby),
):
    router.add_api_route(_path, _check, methods=["HEAD"], include_in_schema=False)
    router.add_api_route(_path, methods, methods=["OPTIONS"], include_in_schema=False)
