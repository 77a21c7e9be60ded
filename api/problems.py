"""Errors as problem documents (RFC 9457): every response that is not a success is one."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
PROBLEM_TYPE = "urn:problem-type:tandem:"


class FieldError(BaseModel):
    """What is wrong with one parameter."""

    field: str
    reason: str


class ProblemDocument(BaseModel):
    """RFC 9457, section 3; ``errors`` is there when parameters are at fault."""

    type: str = Field(examples=[PROBLEM_TYPE + "invalid-parameter"])
    title: str = Field(examples=["A parameter is not valid"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["limit: 20000 is above 10000"])
    instance: str = Field(examples=["/v1/flows/top"])
    errors: list[FieldError] | None = None


class Problem(Exception):  # noqa: N818 - named after the RFC's term
    """Raise it anywhere in a request; the client gets the document."""

    def __init__(
        self,
        status: HTTPStatus,
        kind: str,
        title: str,
        detail: str,
        errors: list[FieldError] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    @classmethod
    def parameter(cls, field: str, reason: str) -> Problem:
        """The value of the parameter ``field`` cannot be used."""
        return cls._parameters([FieldError(field=field, reason=reason)])

    @classmethod
    def _parameters(cls, errors: list[FieldError]) -> Problem:
        title = "A parameter is not valid" if len(errors) == 1 else "Parameters are not valid"
        detail = "; ".join(f"{e.field}: {e.reason}" for e in errors)
        return cls(
            HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-parameter", title, detail, errors=errors
        )

    def response(self, request: HTTPConnection) -> Response:
        """The document, as an answer to ``request``."""
        document = ProblemDocument(
            type=PROBLEM_TYPE + self.kind if self.kind else "about:blank",
            title=self.title,
            status=self.status.value,
            detail=self.detail,
            instance=request.url.path,
            errors=self.errors,
        )
        return JSONResponse(
            document.model_dump(exclude_none=True),
            self.status.value,
            self.headers,
            MEDIA_TYPE,
        )


def install(app: FastAPI) -> None:
    """Make every error that ``app`` means to answer a problem document."""
    app.exception_handler(Problem)(_problem)
    app.exception_handler(RequestValidationError)(_validation)
    app.exception_handler(HTTPException)(_http)


async def _problem(request: Request, error: Problem) -> Response:
    return error.response(request)


async def _validation(request: Request, error: RequestValidationError) -> Response:
    errors = [
        FieldError(
            field=_field(e["type"], e["loc"]),
            reason=_reason(e["type"], e["msg"], e.get("input")),
        )
        for e in error.errors()
    ]
    return Problem._parameters(errors).response(request)


def _field(kind: str, loc: tuple[str | int, ...]) -> str:
    """The parameter's name; of a body that is no JSON, the place is only a number."""
    inner = () if kind == "json_invalid" else loc[1:]
    return ".".join(map(str, inner)) or str(loc[0])


def _reason(kind: str, message: str, value: object) -> str:
    if kind == "extra_forbidden":
        return "there is no such parameter"
    if kind == "missing":
        return "missing"
    if kind == "json_invalid":
        return "not JSON"
    shown = repr(value)
    return f"{shown if len(shown) <= 80 else shown[:77] + '...'}: {message}"


async def _http(request: Request, error: HTTPException) -> Response:
    status = HTTPStatus(error.status_code)
    detail = {
        HTTPStatus.NOT_FOUND: f"there is nothing at {request.url.path}; see /openapi.json",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method} is not possible at {request.url.path}",
    }.get(status, str(error.detail))
    headers = dict(error.headers or {})
    return Problem(status, "", status.phrase, detail, headers=headers).response(request)


def unexpected(request: HTTPConnection, error: Exception) -> Response:
    """The answer where something has failed that nobody thought of."""
    log.error("%s %s failed", request.scope["method"], request.url.path, exc_info=error)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    detail = f"{type(error).__name__}; the log of the API says more"
    return Problem(status, "", status.phrase, detail).response(request)
