"""Letting another node do what a client has asked this one for."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import Request, Response

from api.access import from_peer
from api.observer import Observer
from api.passed_on import ANSWERED_ELSEWHERE, header_for
from api.peers import PeerFailed
from api.problems import MEDIA_TYPE, Problem

_PASSED_ON = ("content-type", "idempotency-key")


async def forward(request: Request, observed: Observer, name: str) -> Response:
    """The answer of the node ``name`` to the request; raises a problem."""
    if from_peer(request):
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "unknown",
            "There is no such thing",
            f"this is {observed.name}, not {name}",
        )
    try:
        answer = await observed.peers[name].request(
            request.method,
            request.url.path,
            request.query_params,
            await request.body() or None,
            header_for(request)
            | {name: request.headers[name] for name in _PASSED_ON if name in request.headers},
        )
    except PeerFailed as error:
        raise _unreachable(name, str(error)) from None
    kind = answer.headers.get("content-type", "")
    if kind not in ("application/json", MEDIA_TYPE):
        raise _unreachable(name, f"it answers with status {answer.status_code}")
    request.scope[ANSWERED_ELSEWHERE] = True
    return Response(answer.content, answer.status_code, media_type=kind)


def _unreachable(name: str, reason: str) -> Problem:
    return Problem(
        HTTPStatus.BAD_GATEWAY, "unreachable", "The node does not answer", f"{name}: {reason}"
    )
