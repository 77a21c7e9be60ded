"""Writing the audit log: what comes of each request that changes something, or is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.audit.log import AuditLog
from api.audit.record import Request
from api.bucket import Buckets
from api.caller import CALLER, NODE, Caller
from api.passed_on import ANSWERED_ELSEWHERE, FOR, REQUEST_ID, For, address_of
from api.roles import READS
from api.tokens.record import hide_tokens

_MORE: Final = "tandem.audit"
_REFUSED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS)
_LONGEST = 500
_REFUSALS = 50
_REFUSALS_PER_SECOND = 0.1
"""Refusals that are written: a flood of them must not push out of the files what matters."""


def note(connection: HTTPConnection, **more: Any) -> None:
    """Add to the line of this request, such as the identity of an operation."""
    connection.scope.setdefault(_MORE, {}).update(more)


class Audited:
    """Has a line written before the answer goes out."""

    def __init__(self, app: ASGIApp, clock: Callable[[], int] = time.time_ns) -> None:
        self._app = app
        self._clock = clock
        self._refusals = Buckets(_REFUSALS_PER_SECOND, _REFUSALS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and write what came of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = self._clock()
        answered = False

        async def sending(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start" and not answered:
                answered = True
                await self._answered(scope, begun, message["status"])
            await send(message)

        scope.setdefault(_MORE, {})
        try:
            await self._app(scope, receive, sending)
        except Exception:
            # the answer to it is made further out
            if not answered:
                await self._answered(scope, begun, HTTPStatus.INTERNAL_SERVER_ERROR)
            raise

    async def _answered(self, scope: Scope, begun: int, status: int) -> None:
        who: Caller | None = scope.get(CALLER)
        audit: AuditLog = scope["app"].state.observer.audit
        if who is None and status not in _REFUSED:
            return
        if who is not None and not _changes(scope, who):
            return
        # one bucket for all: whoever has many addresses has no more lines
        if status in _REFUSED and self._refusals.take(""):
            audit.passed_over()
            return
        await audit.write(_request(scope, who, begun, status))


def _changes(scope: Scope, who: Caller) -> bool:
    """Whether the request is one for this node to remember."""
    if scope["method"] in READS or scope.get(ANSWERED_ELSEWHERE):
        return False
    # nodes tell each other what they know; the change itself was asked for elsewhere
    return not (who is NODE and scope["path"].startswith("/v1/register/"))


def _request(scope: Scope, who: Caller | None, begun: int, status: int) -> Request:
    connection = HTTPConnection(scope)
    client: For | None = scope.get(FOR)
    path, query = scope["path"], scope["query_string"].decode("latin-1")
    # whoever is not known may say anything there, even a token
    shown = hide_tokens(f"{path}?{query}" if query and who else path)
    return Request(
        time_ns=begun,
        caller=who.name if who else None,
        role=who.role if who else None,
        client=client.client if client else address_of(connection),
        method=scope["method"][:16],
        path=shown[:_LONGEST],
        status=status,
        request=scope.get(REQUEST_ID, ""),
        more=scope[_MORE],
    )
