"""``/v1/ledger`` and ``/v1/templates``: what became of every datagram, and what decodes them."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from ipaddress import ip_address
from typing import Annotated, Any

import orjson
import pyarrow.compute as pc
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.gate import Gate
from api.problems import Problem
from api.queries import MAX_LIMIT, answers
from appliance.ledger.counters import COUNTERS
from appliance.state import StateError, StateReader

router = APIRouter(prefix="/v1", tags=["exporters"])


def _address(text: str) -> str:
    found = ip_address(text)
    mapped = found.ipv4_mapped if found.version == 6 else None
    return str(mapped or found)


class OfExporter(BaseModel):
    """Parameters that choose rows."""

    model_config = ConfigDict(extra="forbid")

    exporter: Annotated[str, Field(max_length=45), AfterValidator(_address)] | None = Field(
        None, description="Only this exporter", examples=["192.0.2.1"]
    )
    limit: int = Field(1000, ge=1, le=MAX_LIMIT, description="Rows")
    offset: int = Field(0, ge=0, le=10**9, description="Rows to leave out first")


_COUNTS = {counter.name: 0 for counter in COUNTERS} | {
    "datagrams_received": 1203400,
    "bytes_received": 1732896000,
    "datagrams_decoded": 1203399,
    "datagrams_held": 1,
    "records_decoded": 28881576,
    "records_stored": 28881576,
}


@router.get(
    "/ledger",
    summary="What became of every datagram and flow record",
    responses=answers(
        {
            "updated_ns": 1767269700000000000,
            "balanced": True,
            "imbalances": [],
            "torn": 0,
            "rows": [{"exporter": "192.0.2.1", "protocol": "NETFLOW_V9", "domain": 0, **_COUNTS}],
            "of": 1,
            "retired": {"expired": {"192.0.2.1": 4000000}, "disk_full": {}, "corrupt": {}},
        }
    ),
)
async def ledger(request: Request, query: Annotated[OfExporter, Query()]) -> Response:
    """Counters of each exporter, protocol and observation domain since the node was made; datagrams
    received = the sum of all other `datagrams_` counters, and records decoded = stored + dropped.
    `retired`: records that left the store since, by reason. `of`: rows that there are without
    `limit`.
    """

    def work(state: StateReader) -> dict[str, object]:
        view = state.ledger()
        table = view.table
        if query.exporter is not None:
            table = table.filter(pc.equal(table["exporter"], query.exporter))
        imbalances = view.imbalances()
        return {
            "updated_ns": view.updated_ns,
            "balanced": not imbalances,
            "imbalances": imbalances[:100],
            "torn": view.torn,
            "rows": table.slice(query.offset, query.limit).to_pylist(),
            "of": table.num_rows,
            "retired": {
                reason.value: {
                    exporter: rows
                    for exporter, rows in gone.items()
                    if query.exporter in (None, exporter)
                }
                for reason, gone in view.retired.items()
            },
        }

    return await _answer(request, work)


@router.get(
    "/templates",
    summary="Templates that exporters have sent",
    responses=answers(
        {
            "rows": [
                {
                    "exporter": "192.0.2.1",
                    "protocol": "NETFLOW_V9",
                    "domain": 0,
                    "session": 0,
                    "id": 256,
                    "options": False,
                    "fields": [{"pen": 0, "id": 8, "length": 4, "name": "sourceIPv4Address"}],
                    "defined_ns": 1767225600000000000,
                    "refreshed_ns": 1767269640000000000,
                    "used_ns": 1767269640000000000,
                    "uses": 4021,
                }
            ],
            "of": 1,
        }
    ),
)
async def templates(request: Request, query: Annotated[OfExporter, Query()]) -> Response:
    """As of the last change of any template; fields in the order of the record, with the names of
    their information elements where these are known.
    """

    def work(state: StateReader) -> dict[str, object]:
        found, of = state.templates(query.exporter, query.offset, query.limit)
        return {"rows": found, "of": of}

    return await _answer(request, work)


async def _answer(request: Request, work: Callable[[StateReader], dict[str, Any]]) -> Response:
    state: StateReader = request.app.state.state
    reads: Gate = request.app.state.reads
    try:
        body = await reads.run(lambda: orjson.dumps(work(state)))
    except StateError as error:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "no-state",
            "The state of the node cannot be read",
            str(error),
        ) from None
    return Response(body, media_type="application/json")
