"""``/v1/flows``: what talked most, when, and the records themselves."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field

from api.problems import Problem
from api.queries import MAX_LIMIT, Duration, Grouped, Selected, answer, answers, rows
from appliance.query.engine import Engine, Window
from appliance.query.search import DEFAULT_COLUMNS, flows
from appliance.query.select import Result
from appliance.query.times import read_span
from appliance.query.traffic import series, top

router = APIRouter(prefix="/v1/flows", tags=["flows"])

MAX_ROWS = 20_000
"""Rows of a series."""


class TopQuery(Grouped):
    """Parameters of ``/v1/flows/top``."""

    by: str = Field("src_addr", min_length=1, max_length=400, examples=["src,dst_port"])
    limit: int = Field(10, ge=1, le=MAX_LIMIT, description="Groups")


class SeriesQuery(Grouped):
    """Parameters of ``/v1/flows/series``."""

    step: Duration | None = Field(
        None, description="Length of a bucket; without it, at most 120 of them", examples=["1m"]
    )
    limit: int = Field(
        5, ge=1, le=100, description="Groups; the sum of the rest has `other` = true"
    )


class SearchQuery(Selected):
    """Parameters of ``/v1/flows/search``."""

    columns: str = Field(
        "",
        max_length=4000,
        description="Columns, separated by commas; `all` for every one that a record has; without "
        "it, the usual ones",
        examples=["received_ns,src_addr,dst_addr,bytes"],
    )
    limit: int = Field(100, ge=1, le=MAX_LIMIT, description="Records, newest first")
    token: str | None = Field(
        None,
        max_length=200,
        description="`next` of the page before; `filter` must be the same, and `since` and `until` "
        "what that page said",
    )

    def shown(self) -> list[str] | None:
        """The columns; None for all."""
        if self.columns == "all":
            return None
        return [c.strip() for c in self.columns.split(",") if c.strip()] or list(DEFAULT_COLUMNS)


_WINDOW = {"since_ns": 1767268800000000000, "until_ns": 1767269700000000000}
_TOTAL = {"bytes": 812340000, "packets": 1200450, "flows": 60210, "unknown": 0}
_SUMS = {"bytes": 120400000, "packets": 98000, "flows": 512, "bps": 1070222.2, "pps": 108.9}


def _summary(result: Result) -> dict[str, object]:
    return {
        "since_ns": result.since_ns,
        "until_ns": result.until_ns,
        "total": result.total,
        "rows": rows(result.table),
    }


@router.get(
    "/top",
    summary="What talked most",
    responses=answers(
        {**_WINDOW, "total": _TOTAL, "rows": [{"src_addr": "10.0.0.1", **_SUMS, "share": 0.148}]}
    ),
)
async def flows_top(request: Request, query: Annotated[TopQuery, Query()]) -> Response:
    """The groups with the largest `metric`; `unknown` counts flows whose sampling rate is not known
    and which are therefore counted as sent.
    """
    window = query.window(time.time_ns())

    def work(engine: Engine) -> dict[str, object]:
        found = top(
            engine,
            query.keys,
            filter=query.filter,
            window=window,
            metric=query.metric,
            limit=query.limit,
            scaled=query.scaled,
        )
        return _summary(found)

    return await answer(request, work)


@router.get(
    "/series",
    summary="Traffic over time",
    responses=answers(
        {
            **_WINDOW,
            "total": _TOTAL,
            "rows": [{"time_ns": 1767268800000000000, **_SUMS, "unknown": 0}],
        }
    ),
)
async def flows_series(request: Request, query: Annotated[SeriesQuery, Query()]) -> Response:
    """One row for each bucket and group in which there was traffic."""
    window = query.window(time.time_ns())
    step_ns = read_span(query.step) if query.step else None
    if step_ns is not None:
        _check_size(query, window, step_ns)

    def work(engine: Engine) -> dict[str, object]:
        found = series(
            engine,
            query.keys,
            filter=query.filter,
            window=window,
            metric=query.metric,
            step_ns=step_ns,
            limit=query.limit,
            scaled=query.scaled,
        )
        return _summary(found)

    return await answer(request, work)


def _check_size(query: SeriesQuery, window: Window, step_ns: int) -> None:
    """Refuse what would have more rows than an answer may."""
    buckets = ((window.until_ns or 0) - (window.since_ns or 0)) // step_ns + 1
    groups = query.limit + 1 if query.keys else 1
    if buckets * groups > MAX_ROWS:
        reason = f"{buckets} buckets of {groups} groups are more than {MAX_ROWS} rows"
        raise Problem.parameter("step", f"{reason}; use a longer step or a lower limit")


@router.get(
    "/search",
    summary="Flow records",
    responses=answers(
        {
            **_WINDOW,
            "next": "WzE3NjcyNjk2OTk5OTAwMDAwMDAsMV0",
            "rows": [
                {
                    "received_ns": 1767269699990000000,
                    "exporter": "192.0.2.1",
                    "src_addr": "10.0.0.1",
                    "dst_addr": "198.51.100.7",
                    "protocol": 6,
                    "src_port": 51234,
                    "dst_port": 443,
                    "packets": 12,
                    "bytes": 9120,
                    "sampling_rate": 1000,
                    "sampling_source": 2,
                }
            ],
        }
    ),
)
async def flows_search(request: Request, query: Annotated[SearchQuery, Query()]) -> Response:
    """Records as they were sent, without what they do not have; `next` is null on the last page."""
    window = query.window(time.time_ns())

    def work(engine: Engine) -> dict[str, object]:
        page = flows(
            engine,
            filter=query.filter,
            window=window,
            columns=query.shown(),
            limit=query.limit,
            token=query.token,
        )
        present = [{k: v for k, v in row.items() if v is not None} for row in rows(page.table)]
        return {
            "since_ns": window.since_ns,
            "until_ns": window.until_ns,
            "next": page.next,
            "rows": present,
        }

    return await answer(request, work)
