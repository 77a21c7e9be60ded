"""Which role a request needs: one table, asked before anything of the request is looked at."""

from __future__ import annotations

from typing import Final

from api.caller import Role

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""
_CHANGES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_ALL: Final = READS | _CHANGES
OPEN: Final = frozenset({"/livez", "/readyz", "/active", "/standby"})
"""Health checks: load balancers have no token."""

_TABLE: Final[tuple[tuple[frozenset[str], str, Role], ...]] = (
    # methods, path and all below it, role: the first line that fits holds
    (_ALL, "/v1/tokens", "admin"),
    (_ALL, "/v1/audit", "admin"),
    (_ALL, "/v1/register", "admin"),
    (_CHANGES, "/v1/config", "admin"),
    (READS, "", "viewer"),
    (_CHANGES, "", "operator"),
)


def needed(method: str, path: str) -> Role | None:
    """The role for ``method`` at ``path``; None where nobody is asked who they are."""
    if path in OPEN and method in READS:
        return None
    for methods, above, role in _TABLE:
        if method in methods and (path == above or path.startswith(f"{above}/")):
            return role
    return "admin"
