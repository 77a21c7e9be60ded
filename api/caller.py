"""Who makes a request, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from starlette.requests import HTTPConnection

Role = Literal["viewer", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "admin")
"""Each may do what the ones before it may, and more."""
CALLER: Final = "tandem.caller"
"""Where the application finds it in the scope of a request."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request."""

    name: str
    """Of the token, or of the node; for logs and answers, and no secret."""
    role: Role

    def may(self, role: Role) -> bool:
        """Whether what ``role`` may is allowed."""
        return ROLES.index(self.role) >= ROLES.index(role)


NOBODY: Final = Caller("anybody", "viewer")
"""Where no token is needed."""
USER: Final = Caller("anybody", "admin")
"""Where no token is needed and only this machine's own users can ask."""
NODE: Final = Caller("a node", "admin")
"""A node of the cluster that asks for itself."""


def caller(connection: HTTPConnection) -> Caller:
    """Who makes the request; the access control has put it there."""
    found: Caller = connection.scope.get(CALLER, NOBODY)
    return found
