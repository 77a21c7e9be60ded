"""Requests that one node makes of another for a client: how it says whom they are for."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from pydantic import Field, ValidationError
from starlette.requests import HTTPConnection

from api.caller import Caller, Role, caller
from api.problems import Problem
from api.views import View

HEADER: Final = "Tandem-Caller"
"""Only the listener of nodes believes it, and not from what a node's HAProxy passes on."""
FOR: Final = "tandem.for"
"""Where the client is in the scope of a request that a node makes for it."""
REQUEST_ID: Final = "tandem.request_id"
"""Where the request's identity is in its scope."""
ANSWERED_ELSEWHERE: Final = "tandem.answered_elsewhere"
"""Set in the scope of a request that another node has answered, and so has in its audit log."""


class For(View):
    """The client whom a request is for."""

    name: str = Field(max_length=63)
    role: Role
    client: str = Field("", max_length=64, description="Its address")
    request: str = Field("", max_length=32, description="Identity of its request")

    @property
    def caller(self) -> Caller:
        """Who it is."""
        return Caller(self.name, self.role)


def address_of(connection: HTTPConnection) -> str:
    """The client's address, at the end of a chain of trusted proxies."""
    return connection.client.host[:64] if connection.client else ""


def header_for(connection: HTTPConnection) -> dict[str, str]:
    """The header by which another node learns whom a request of this one is for."""
    who = caller(connection)
    client = For(
        name=who.name,
        role=who.role,
        client=address_of(connection),
        request=connection.scope.get(REQUEST_ID, ""),
    )
    return {HEADER: client.model_dump_json(ensure_ascii=True)}


def header_of(name: str, role: Role, request: str) -> dict[str, str]:
    """The same for what an operation does that ``name`` has begun; ``request``: its identity."""
    client = For(name=name, role=role, request=request[:32])
    return {HEADER: client.model_dump_json(ensure_ascii=True)}


def believe(connection: HTTPConnection) -> For | None:
    """Whom a node's request is for, None if for itself; raises a problem if it is nonsense."""
    text = connection.headers.get(HEADER)
    if text is None:
        return None
    try:
        client = For.model_validate_json(text)
    except ValidationError:
        raise Problem(
            HTTPStatus.BAD_REQUEST, "caller", f"{HEADER} is not valid", "no node says that"
        ) from None
    connection.scope.update({FOR: client, REQUEST_ID: client.request})
    return client
