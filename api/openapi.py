"""What the description of the API says of access, for every operation, out of the one table."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from api.problems import MEDIA_TYPE
from api.roles import needed

_REFUSALS = {
    "401": "No token, or one that is not good",
    "403": "The token's role does not allow it",
    "429": "More requests than a token may make",
}
_REF = {"$ref": "#/components/schemas/ProblemDocument"}


def describe_access(app: FastAPI) -> None:
    """Add the role and the refusals to what ``app`` says of itself."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_roles(plain())
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
                operation["responses"][status] = {
                    "description": description,
                    "content": {MEDIA_TYPE: {"schema": _REF}},
                }
    return document
