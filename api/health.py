"""``/livez`` and ``/readyz``: answered by status code, from memory, on the event loop."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from api.node_file import Watcher
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


def watcher(request: Request) -> Watcher:
    """The watcher of the node that this application is for."""
    found: Watcher = request.app.state.watcher
    return found


NodeWatcher = Annotated[Watcher, Depends(watcher)]


@router.get("/livez", summary="Does the API answer?")
async def livez() -> Alive:
    """Always 200; says nothing about the collector."""
    return Alive(status="alive")


@router.get(
    "/readyz",
    summary="Does the node collect?",
    responses={503: {"model": ProblemDocument, "description": "It does not; `detail` says why"}},
)
async def readyz(watch: NodeWatcher) -> Ready:
    """200 while the collector's processes run and listen; 503, with the reasons, if not."""
    snapshot = watch.snapshot
    reasons = snapshot.unready(watch.clock())
    if reasons or snapshot.document is None:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "not-ready",
            "The node does not collect",
            "; ".join(reasons),
            [FieldError(field="node", reason=reason) for reason in reasons],
        )
    return Ready(status="ready", node=snapshot.document.node, warnings=snapshot.warnings())


for _path, _check in (("/livez", livez), ("/readyz", readyz)):
    router.add_api_route(_path, _check, methods=["HEAD"], include_in_schema=False)


@router.options("/livez", include_in_schema=False)
@router.options("/readyz", include_in_schema=False)
async def methods() -> Response:
    """What a health check may be asked with."""
    return Response(status_code=204, headers={"Allow": "GET, HEAD, OPTIONS"})
