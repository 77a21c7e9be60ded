"""What the description of the API says beyond its routes: roles, out of the one table; problems."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from api.openapi_problems import with_problems
from api.roles import needed

_REFUSALS = {
    "401": "No token, or one that is not good",
    "403": "The token's role does not allow it",
    "429": "More requests than a token may make",
}


def describe(app: FastAPI) -> None:
    """Add roles, refusals and problems to what ``app`` says of itself."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = with_problems(_with_roles(plain()))
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _with_roles(document: dict[str, Any]) -> dict[str, Any]:
    schemes = document["components"].setdefault("securitySchemes", {})
    schemes["bearer"] = {"type": "http", "scheme": "bearer"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            role = needed(method.upper(), path)
            operation["security"] = [{"bearer": []}] if role else []
            if role is None:
                continue
            operation["x-required-role"] = role
            for status, description in _REFUSALS.items():
                operation["responses"][status] = {"description": description}
    return document
