"""``/v1/exporters``: who sends flow records, how many, and at which sampling rate."""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field

from api.queries import MAX_LIMIT, Selected, answer, answers, rows
from appliance.config import Config
from appliance.query.engine import Engine
from appliance.query.exporters import exporters

router = APIRouter(prefix="/v1", tags=["exporters"])


class ExportersQuery(Selected):
    """Parameters of ``/v1/exporters``."""

    limit: int = Field(1000, ge=1, le=MAX_LIMIT, description="Rows")
    offset: int = Field(0, ge=0, le=10**9, description="Rows to leave out first")


@router.get(
    "/exporters",
    summary="Who exports",
    responses=answers(
        {
            "since_ns": 1767268800000000000,
            "until_ns": 1767269700000000000,
            "rows": [
                {
                    "exporter": "192.0.2.1",
                    "name": "core-1",
                    "export_protocol": 9,
                    "observation_domain": 0,
                    "first_ns": 1767268800120000000,
                    "last_ns": 1767269699870000000,
                    "flows": 60210,
                    "flows_per_second": 66.9,
                    "bytes": 812340,
                    "packets": 1200,
                    "rate_min": 1000,
                    "rate_max": 1000,
                    "unknown": 0,
                }
            ],
            "of": 1,
        }
    ),
)
async def of_the_store(request: Request, query: Annotated[ExportersQuery, Query()]) -> Response:
    """A row for each exporter, protocol and observation domain that flow records came from. Bytes
    and packets are as sent; `unknown` counts flows whose sampling rate is not known; `name` is that
    of the configuration.
    """
    window = query.window(time.time_ns())
    config: Config = request.app.state.config

    def work(engine: Engine) -> dict[str, object]:
        found = exporters(engine, filter=query.filter, window=window)
        shown = rows(found.table.slice(query.offset, query.limit))
        return {
            "since_ns": window.since_ns,
            "until_ns": window.until_ns,
            "rows": [{**row, "name": _name(config, row["exporter"])} for row in shown],
            "of": found.table.num_rows,
        }

    return await answer(request, work)


def _name(config: Config, exporter: object) -> str | None:
    described = config.exporter_of(ip_address(str(exporter)))
    return described.name if described else None
