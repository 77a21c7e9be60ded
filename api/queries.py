"""From a request's parameters to a query, and from its result to JSON."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Literal, Self

import orjson
import pyarrow as pa
from fastapi import Request
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from api.gate import Gate, too_slow
from api.problems import Problem
from appliance.query.engine import Engine, QueryError, QueryTimeoutError, Window
from appliance.query.filter import FilterError
from appliance.query.values import TIME, Span, read_duration

MAX_FILTER = 4096
"""Characters of a filter."""
MAX_LIMIT = 10_000
DEFAULT_LAST = "15m"
EARLIEST_NS, LATEST_NS = 0, 2**63 - 1


def _moment(text: str) -> str:
    _moment_ns(text)
    return text


def _moment_ns(text: str) -> int:
    # a plus sign in a query string is a space
    found = TIME.read(re.sub(r"(T\d\d:\d\d\S*) (\d\d:?\d\d)$", r"\1+\2", text))
    assert isinstance(found, Span)
    if not EARLIEST_NS <= found.low <= LATEST_NS:
        raise ValueError("a time since 1970, in ns before 2**63")
    return int(found.low)


def _duration(text: str) -> str:
    if not 0 < read_duration(text) <= 36525 * 86400 * 10**9:
        raise ValueError("a duration of more than 0 and at most 36525d")
    return text


Moment = Annotated[str, Field(max_length=40), AfterValidator(_moment)]
Duration = Annotated[str, Field(max_length=20), AfterValidator(_duration)]


class Selected(BaseModel):
    """Which flow records a query is about."""

    model_config = ConfigDict(extra="forbid")

    since: Moment | None = Field(
        None,
        description="Earliest arrival, included: ISO 8601 (UTC where it has no offset) or ns since "
        "the epoch",
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
        if (
            window.since_ns is None
            or window.until_ns is None
            or (window.since_ns >= window.until_ns)
        ):
            raise ValueError("since must be before until")
        return self

    def window(self, now_ns: int) -> Window:
        """The span of arrival time that is meant."""
        until = _moment_ns(self.until) if self.until is not None else now_ns
        if self.since is not None:
            return Window(_moment_ns(self.since), until)
        return Window(max(until - read_duration(self.last or DEFAULT_LAST), 0), until)


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
