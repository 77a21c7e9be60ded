"""From a request's parameters to a query, and from its result to JSON."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any, Literal, Self

import orjson
import pyarrow as pa
from fastapi import Request
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from api.gate import Gate, too_slow
from api.problems import Problem, ProblemDocument
from appliance.query.engine import Engine, QueryError, QueryTimeoutError, Window
from appliance.query.filter import FilterError
from appliance.query.times import DAY, read_span, read_time

MAX_FILTER = 4096
"""Characters of a filter."""
MAX_LIMIT = 10_000
DEFAULT_LAST = "1h"


def _moment(text: str) -> str:
    _moment_ns(text, time.time_ns())
    return text


def _moment_ns(text: str, now_ns: int) -> int:
    # a plus sign in a query string is a space
    text = re.sub(r"(T\d\d:\d\d\S*) (\d\d:?\d\d)$", r"\1+\2", text)
    try:
        found = read_time(text, now_ns)
    except QueryError as error:
        raise ValueError(str(error)) from None
    if not 0 <= found < 2**63:
        raise ValueError("that is before 1970, or after 2262")
    return found


def _duration(text: str) -> str:
    try:
        length = read_span(text)
    except QueryError as error:
        raise ValueError(str(error)) from None
    if length > 36525 * DAY:
        raise ValueError("that is more than a century")
    return text


Moment = Annotated[str, Field(max_length=40), AfterValidator(_moment)]
Duration = Annotated[str, Field(max_length=20), AfterValidator(_duration)]


class Selected(BaseModel):
    """Which flow records a query is about."""

    model_config = ConfigDict(extra="forbid")

    since: Moment | None = Field(
        None,
        description="Earliest arrival, included: ISO 8601 (UTC where it has no offset), how long "
        "ago (`2h`), or s, ms, µs or ns since the epoch",
        examples=["2026-01-01T12:00:00Z"],
    )
    until: Moment | None = Field(
        None, description="Latest arrival, not included", examples=["2026-01-01T13:00:00Z"]
    )
    last: Duration | None = Field(
        None,
        description="In place of `since`: so long before `until`, or before now. "
        f"{DEFAULT_LAST} if neither is there",
        examples=["15m", "2h", "1d"],
    )
    filter: str = Field(
        "",
        max_length=MAX_FILTER,
        description="As in nfdump and tcpdump",
        examples=["src net 10.0.0.0/8 and dst port 443"],
    )

    @model_validator(mode="after")
    def _one_begin(self) -> Self:
        if self.since is not None and self.last is not None:
            raise ValueError("since and last exclude each other")
        window = self.window(time.time_ns())
        if (window.since_ns or 0) >= (window.until_ns or 0):
            raise ValueError("since must be before until")
        return self

    def window(self, now_ns: int) -> Window:
        """The span of arrival time that is meant."""
        until = _moment_ns(self.until, now_ns) if self.until is not None else now_ns
        if self.since is not None:
            return Window(_moment_ns(self.since, now_ns), until)
        return Window(max(until - read_span(self.last or DEFAULT_LAST), 0), until)


Metric = Literal["bytes", "packets", "flows", "bps", "pps"]


class Grouped(Selected):
    """A selection that is summed by group."""

    by: str = Field(
        "",
        max_length=400,
        description="Columns to group by, separated by commas; `src/24` is a network of an address",
        examples=["src,dst_port"],
    )
    metric: Metric = Field("bytes", description="What the groups are ordered by")
    scaled: bool = Field(True, description="Whether to multiply by the sampling rate, where known")

    @property
    def keys(self) -> list[str]:
        """The columns of ``by``."""
        return [name.strip() for name in self.by.split(",") if name.strip()]


def answers(example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """The answers of an operation that queries, for OpenAPI."""
    return {
        200: {"content": {"application/json": {"example": example}}},
        422: {
            "model": ProblemDocument,
            "description": "A parameter is not valid; `errors` names it",
        },
        503: {
            "model": ProblemDocument,
            "description": "Too many queries, or one that took too long",
        },
    }


def rows(table: pa.Table) -> list[dict[str, object]]:
    """A result's rows as JSON objects."""
    found: list[dict[str, object]] = table.to_pylist()
    return found


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(type(value).__name__)


async def answer(request: Request, work: Callable[[Engine], dict[str, object]]) -> Response:
    """Run ``work`` when there is a turn for it; errors of the query become problem documents."""
    engine: Engine = request.app.state.engine
    gate: Gate = request.app.state.queries

    def run() -> bytes:
        return orjson.dumps(work(engine), default=_plain)

    try:
        return Response(await gate.run(run), media_type="application/json")
    except FilterError as error:
        reason = f"{error.message} (at character {error.at + 1})"
        raise Problem.parameter("filter", reason) from None
    except QueryTimeoutError:
        raise too_slow(request.app.state.config.api.query_seconds) from None
    except QueryError as error:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "invalid-query",
            "The query cannot be answered",
            str(error),
        ) from None
