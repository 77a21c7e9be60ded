"""What every answer says of itself: the identity of its request, and that nobody is to keep it.

An unexpected error is answered here, too: it would pass this by, as Starlette does it further out.
"""

from __future__ import annotations

import secrets

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.passed_on import REQUEST_ID
from api.problems import unexpected


class Headers:
    """Adds them. There are none of CORS: no other site's page may read an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[REQUEST_ID] = secrets.token_hex(8)

        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = scope[REQUEST_ID]
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cache-Control"] = "no-store"
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            answer = unexpected(HTTPConnection(scope), error)
            if begun:
                raise  # half of an answer cannot become another
            await answer(scope, receive, sending)
