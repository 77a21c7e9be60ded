"""Who may ask: other nodes by their certificate, everybody else by a token."""

from __future__ import annotations

import hmac
import logging
import os
import re
import secrets
from hashlib import sha256
from http import HTTPStatus

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import Problem
from appliance.config import Api

log = logging.getLogger(__name__)

LOCAL_TOKEN = "local.token"
MAX_BODY = 64 << 10
"""Bytes of a request's body."""
OPEN = {"/livez", "/readyz", "/active", "/standby"}
"""Health checks: load balancers have no token."""
_SAFE = {"GET", "HEAD", "OPTIONS"}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PEER = "tandem.peer"


class Tokens:
    """The digests of all tokens that are good; none of the tokens is kept, or shown."""

    def __init__(self, api: Api) -> None:
        self._file = api.token_file
        self._runtime_dir = api.runtime_dir
        self._stamp: tuple[int, int, int] | None = None
        self._given: frozenset[str] = frozenset()
        self._local = ""

    @property
    def needed(self) -> bool:
        """Whether there are tokens at all."""
        return self._file is not None

    def good(self, token: str) -> bool:
        """Whether ``token`` is one of them, in a time that does not tell how nearly it is."""
        digest = sha256(token.encode(errors="surrogateescape")).hexdigest()
        known = [*self._given, self._local]
        return bool(sum(hmac.compare_digest(digest, one) for one in known))

    def refresh(self) -> None:
        """Read the file where it has changed; without it, only the local token is good."""
        if self._file is None:
            return
        try:
            found = self._file.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp == self._stamp:
                return
            words = self._file.read_text().lower().split()
        except (OSError, ValueError) as error:
            if self._stamp is not None or not self._given:
                log.error("api.token_file: %s; no token of it is good", error)
            self._stamp, self._given = None, frozenset()
            return
        self._stamp = stamp
        self._given = frozenset(word for word in words if _DIGEST.fullmatch(word))
        if not self._given or len(self._given) < len(set(words)):
            log.error("%s: not every line is a hex SHA-256 digest", self._file)

    def make_local(self) -> None:
        """Write a new token for this machine's own command line."""
        if self._file is None:
            return
        token = secrets.token_urlsafe(32)
        path = self._runtime_dir / LOCAL_TOKEN
        temporary = path.with_suffix(".new")
        try:
            self._runtime_dir.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
            with open(handle, "w") as file:
                file.write(token + "\n")
            temporary.replace(path)
        except OSError as error:
            log.error("%s: %s; the command line needs a token", path, error.strerror)
            return
        self._local = sha256(token.encode()).hexdigest()


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            connection = HTTPConnection(scope)
            problem = _body(connection) or self._refusal(connection)
            if problem is not None:
                await problem.response(connection)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, connection: HTTPConnection) -> Problem | None:
        safe = connection.scope["method"] in _SAFE
        if from_peer(connection) or (safe and connection.scope["path"] in OPEN):
            return None
        if not self._tokens.needed:
            if safe or self._api.address.is_loopback:
                return None
            return Problem(
                HTTPStatus.FORBIDDEN,
                "no-tokens",
                "Changes need a token",
                "there are none: set api.token_file",
            )
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return _unauthorized("send a token: Authorization: Bearer …", "")
        if not self._tokens.good(token.strip()):
            return _unauthorized("the token is not valid here", ', error="invalid_token"')
        return None


def _unauthorized(detail: str, error: str) -> Problem:
    return Problem(
        HTTPStatus.UNAUTHORIZED,
        "unauthorized",
        "A token is needed",
        detail,
        headers={"WWW-Authenticate": f'Bearer realm="tandem"{error}'},
    )


def _body(connection: HTTPConnection) -> Problem | None:
    """Why the request's body is not taken: no operation needs a long one."""
    length = connection.headers.get("content-length", "0")
    if "transfer-encoding" in connection.headers:
        return Problem(
            HTTPStatus.LENGTH_REQUIRED, "no-length", "A body needs a Content-Length", "send one"
        )
    if not length.isdecimal() or int(length) > MAX_BODY:
        return Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too-large",
            "The body is too large",
            f"{MAX_BODY} bytes at most",
            headers={"Connection": "close"},
        )
    return None
