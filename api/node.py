"""``/v1/node``: the processes, listeners and shards of this node."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter

from api.health import NodeWatcher
from api.node_file import NodeDocument
from api.problems import Problem, ProblemDocument

router = APIRouter(prefix="/v1", tags=["node"])


@router.get(
    "/node",
    summary="The node: processes, listeners, shards",
    responses={503: {"model": ProblemDocument, "description": "No collector runs here"}},
)
async def node(watch: NodeWatcher) -> NodeDocument:
    """As the collector wrote it last; `updated_ns` says when, `/readyz` whether that is recent."""
    snapshot = watch.snapshot
    if snapshot.document is None:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "no-state",
            "The state of the node cannot be read",
            snapshot.problem,
        )
    return snapshot.document
