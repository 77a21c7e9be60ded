"""``/v1/drills``."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import ValidationError

from api.access import from_peer
from api.caller import caller
from api.cluster import Observed, holders
from api.drain import require_vip
from api.drills import exports
from api.drills.compare import differences
from api.drills.drill import DrillAction, deadline_seconds
from api.drills.model import Check, Difference, Drill, DrillRequest, Preflight, Report
from api.drills.node import CUTS_OFF
from api.forward import forward
from api.observer import Observer
from api.operations.model import Kept, Operation
from api.operations.operations import Operations
from api.operations.routes import Id, Key, Known
from api.problems import Problem, ProblemDocument

router = APIRouter(prefix="/v1/drills", tags=["drills"])

_NONE: dict[int | str, dict[str, object]] = {
    404: {"model": ProblemDocument, "description": "There is no such drill, or no report of it"}
}
_BEGUN: dict[int | str, dict[str, object]] = {
    200: {"model": Preflight, "description": "Of a dry run: whether it could begin"},
    202: {
        "model": Operation,
        "headers": {"Location": {"description": "The drill", "schema": {"type": "string"}}},
    },
    404: {"model": ProblemDocument, "description": "There is no such VIP"},
    409: {
        "model": ProblemDocument,
        "description": "Preflight: paused, busy, forbidden, or the nodes are not fit for it",
    },
    502: {"model": ProblemDocument, "description": "The node that is to do it does not answer"},
    503: {"model": ProblemDocument, "description": "It cannot be written"},
}


@router.post(
    "", summary="Begin a drill", status_code=HTTPStatus.ACCEPTED, responses=_BEGUN,
    response_model=Operation | Preflight,
)  # fmt: skip
async def begin(
    request: Request,
    response: Response,
    observed: Observed,
    known: Known,
    wanted: Annotated[DrillRequest, Body()],
    key: Key = None,
) -> Operation | Preflight | Response:
    """A load of numbered flow records is sent to the VIP; after 2 s the fault is made on the node
    that holds it, and undone again. The operation succeeds when there is a report, whether the
    objectives are met or not: `figures.passed` says that.
    """
    wanted = wanted.model_copy(update={"vip": _vip(observed, wanted.vip)})
    action: DrillAction = request.app.state.drills
    content = wanted.model_dump(exclude={"dry_run"})
    if wanted.dry_run:
        response.status_code = HTTPStatus.OK
        return _preflight(known, action, content)
    other = _another(observed, wanted)
    if other is not None and not from_peer(request):
        return await forward(request, observed, other)
    by = caller(request).name
    operation = await known.begin("drill", content, by, deadline_seconds(wanted), key=key)
    response.headers["Location"] = f"/v1/drills/{operation.id}"
    return operation


def _vip(observed: Observer, name: str | None) -> str:
    if name is None:
        if len(observed.vips) != 1:
            names = ", ".join(v.name for v in observed.vips) or "none"
            raise Problem.parameter("vip", f"missing; there are: {names}")
        return observed.vips[0].name
    require_vip(observed, name)
    return name


def _preflight(known: Operations, action: DrillAction, content: dict[str, object]) -> Preflight:
    checks, _ = action.planner.checks(content)
    try:
        known.refuse_any()
        checks.insert(0, Check(name="free", ok=True))
    except Problem as problem:
        detail = f"{problem.title}: {problem.detail}"
        checks.insert(0, Check(name="free", ok=False, detail=detail))
    return Preflight(ok=all(check.ok for check in checks), checks=checks)


def _another(observed: Observer, wanted: DrillRequest) -> str | None:
    """The node that is to do it, where this one is about to be cut off; None: this one."""
    held = holders(observed, observed.view())[str(wanted.vip)]
    if wanted.kind not in CUTS_OFF or observed.name not in held:
        return None
    return next((name for name, peer in observed.peers.items() if peer.view is not None), None)


@router.get("", summary="Drills, the newest first")
async def every(
    observed: Observed, known: Known, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> list[Operation]:
    """Their operations; `figures` has the most important of each. The cluster keeps 200 reports."""
    return [_operation(one) for one in known.all() if one.kind == "drill"][:limit]


def _operation(one: Kept) -> Operation:
    return Operation.model_validate(one.model_dump())


def report_of(observed: Observer, id_: str) -> Report | None:
    """The report of a drill; None where there is none, or one of another version."""
    entry = observed.register.get("report", id_)
    try:
        return None if entry is None else Report.model_validate(entry.body)
    except ValidationError:
        return None


def _required(observed: Observer, id_: str) -> Report:
    report = report_of(observed, id_)
    if report is None:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "unknown",
            "There is no such thing",
            f"there is no report of a drill {id_!r}: it has not ended, or failed, or is forgotten",
        )
    return report


@router.get("/{id}", summary="A drill", responses=_NONE)
async def one(observed: Observed, known: Known, id_: Id) -> Drill:
    """How far it is, and its report once there is one. Any node has both."""
    return Drill(operation=_operation(known.get(id_)), report=report_of(observed, id_))


@router.get(
    "/{id}/report",
    summary="A drill's report to keep",
    response_class=Response,
    responses=_NONE
    | {
        200: {
            "content": {"text/markdown": {}, "application/xml": {}, "text/html": {}},
            "description": "The page needs nothing else: its plot is in it",
        }
    },
)
async def export(
    observed: Observed,
    id_: Id,
    format_: Annotated[
        Literal["markdown", "junit", "html"], Query(alias="format", description="Its form")
    ] = "markdown",
) -> Response:
    """As Markdown, as JUnit XML for a build server, or as a page with a plot."""
    text, kind = exports.FORMATS[format_]
    return Response(text(_required(observed, id_)), media_type=kind)


@router.get("/{id}/diff/{other}", summary="Two drills compared", responses=_NONE)
async def diff(observed: Observed, id_: Id, other: str) -> list[Difference]:
    """The figures of both, and how much `other` has more."""
    return differences(_required(observed, id_), _required(observed, other))
