"""Who may ask: other nodes by their certificate, everybody else by a token, and for what."""

from __future__ import annotations

import math
from http import HTTPStatus
from ipaddress import ip_address

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from api.bucket import Buckets
from api.caller import CALLER, NOBODY, NODE, USER, Caller
from api.passed_on import address_of, believe
from api.problems import Problem
from api.roles import needed
from api.tokens.known import Expired, Tokens
from api.tokens.record import digest_of
from appliance.config import Api

MAX_BODY = 64 << 10
"""Bytes of a request's body."""
PEER_BODY = 4 << 20
"""The same of a node's request: it may tell of an entry of the register."""
_PEER = "tandem.peer"
_BURST_SECONDS = 2.0
"""A caller that was quiet may make the requests of so many seconds at once."""
_FAILURES = 20
_FAILURES_PER_SECOND = 1.0


class PeerListener:
    """Marks what came through the listener that only nodes of the cluster can connect to.

    But for what a node's HAProxy only passes on, while the API there does not answer: it says for
    whom (X-Forwarded-For), and whoever that is needs a token.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        passed_on = any(name == b"x-forwarded-for" for name, _ in scope.get("headers", ()))
        await self._app({**scope, _PEER: not passed_on}, receive, send)


def from_peer(connection: HTTPConnection) -> bool:
    """Whether a node of the cluster asks."""
    return bool(connection.scope.get(_PEER))


def require_peer(connection: HTTPConnection) -> None:
    """To anybody but a node there is nothing here."""
    if not from_peer(connection):
        path = connection.url.path
        raise Problem(HTTPStatus.NOT_FOUND, "", "Not Found", f"there is nothing at {path}")


class Access:
    """Lets requests through to the application, or answers with the reason why not."""

    def __init__(self, app: ASGIApp, tokens: Tokens, api: Api) -> None:
        self._app = app
        self._tokens = tokens
        self._api = api
        rate = api.requests_per_second
        self._requests = Buckets(rate, rate * _BURST_SECONDS)
        self._failures = Buckets(_FAILURES_PER_SECOND, _FAILURES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            connection = HTTPConnection(scope)
            try:
                self._check(connection)
            except Problem as problem:
                await problem.response(connection)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, connection: HTTPConnection) -> None:
        """Raise the problem for which the request is refused."""
        _check_body(connection)
        scope = connection.scope
        role = needed(scope["method"], scope["path"])
        if role is None:
            return
        # refused or not: who it was is known from here on
        scope[CALLER] = who = self._caller(connection)
        if not who.may(role):
            if who is NOBODY:
                raise _no_tokens()
            raise Problem(
                HTTPStatus.FORBIDDEN,
                "forbidden",
                "The role does not allow it",
                f"the role {role} is needed; {who.name} has {who.role}",
                headers={"WWW-Authenticate": _challenge("insufficient_scope")},
            )

    def _caller(self, connection: HTTPConnection) -> Caller:
        if from_peer(connection):
            client = believe(connection)
            return client.caller if client else NODE
        if not self._tokens.needed:
            return USER if self._api.address.is_loopback else NOBODY
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise self._unknown(connection, "send a token: Authorization: Bearer …", "")
        digest = digest_of(token.strip())
        try:
            found = self._tokens.find(digest)
        except Expired as expired:
            raise self._unknown(connection, str(expired), "invalid_token") from None
        if found is None:
            raise self._unknown(connection, "the token is not valid here", "invalid_token")
        if seconds := self._requests.take(digest):
            most = f"{self._api.requests_per_second:g} a second"
            connection.scope[CALLER] = found
            raise _too_many(f"{found.name} makes more than {most}", seconds)
        return found

    def _unknown(self, connection: HTTPConnection, detail: str, error: str) -> Problem:
        """The problem of a client that is not known.

        Good tokens are looked at first, so nobody is kept out by others behind the same address;
        and none can be guessed, however often one tries. The limit keeps logs and processor free.
        """
        if seconds := self._failures.take(_network(address_of(connection))):
            return _too_many("too many requests without a valid token", seconds)
        return Problem(
            HTTPStatus.UNAUTHORIZED,
            "unauthorized",
            "A token is needed",
            detail,
            headers={"WWW-Authenticate": _challenge(error)},
        )


def _challenge(error: str) -> str:
    return 'Bearer realm="tandem"' + (f', error="{error}"' if error else "")


def _network(address: str) -> str:
    """What one client has: an IPv4 address, or a /64."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    return str(found.ipv4_mapped or int(found) >> 64)


def _too_many(detail: str, seconds: float) -> Problem:
    return Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        "too-many",
        "Too many requests",
        detail,
        headers={"Retry-After": str(math.ceil(seconds))},
    )


def _no_tokens() -> Problem:
    return Problem(
        HTTPStatus.FORBIDDEN,
        "no-tokens",
        "This needs a token",
        "there are none: set api.token_file",
    )


def _check_body(connection: HTTPConnection) -> None:
    """Raise the problem of a body that is not taken: no operation needs a long one."""
    most = PEER_BODY if from_peer(connection) else MAX_BODY
    length = connection.headers.get("content-length", "0")
    if "transfer-encoding" in connection.headers:
        raise Problem(
            HTTPStatus.LENGTH_REQUIRED, "no-length", "A body needs a Content-Length", "send one"
        )
    if not length.isdecimal() or int(length) > most:
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too-large",
            "The body is too large",
            f"{most} bytes at most",
            headers={"Connection": "close"},
        )
