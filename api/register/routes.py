"""``/v1/register``: what nodes ask each other for, and tell each other; nobody else sees it."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from api.access import require_peer
from api.cluster import Observed
from api.problems import Problem
from api.register.replicate import Version
from api.register.store import Entry, Kind

router = APIRouter(prefix="/v1/register", include_in_schema=False)


@router.get("")
async def versions(request: Request, observed: Observed) -> list[Version]:
    """What this node has."""
    require_peer(request)
    return [
        Version(kind=e.kind, key=e.key, version=e.version, node=e.node)
        for e in observed.register.every().values()
    ]


@router.get("/{kind}/{key}")
async def entry(request: Request, observed: Observed, kind: Kind, key: str) -> Entry:
    """One entry, removed or not."""
    require_peer(request)
    found = observed.register.every().get((kind, key))
    if found is None:
        raise Problem(HTTPStatus.NOT_FOUND, "unknown", "There is no such thing", f"{kind} {key}")
    return found


@router.put("/{kind}/{key}")
async def tell(request: Request, observed: Observed, kind: Kind, key: str) -> Response:
    """Another node has a new version."""
    require_peer(request)
    try:
        told = Entry.model_validate_json(await request.body())
        if told.name != (kind, key):
            raise Problem.parameter("key", "not that of the entry")
        await observed.register.merge(told)
    except ValidationError:
        raise Problem.parameter("body", "not an entry") from None
    return Response(status_code=HTTPStatus.NO_CONTENT)
