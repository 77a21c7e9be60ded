"""The application: its routes, its errors, who may ask, and what it holds while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request

import appliance
from api import cluster, drain, exporters, flows, health, ledger, metrics, problems
from api.access import Access, Tokens
from api.drills import clients as drill_clients
from api.drills import node as drill_node
from api.drills import routes as drills
from api.drills.drill import DrillAction
from api.drills.node import DrillNode, DrillNodes
from api.drills.source import send_as_ordered
from api.gate import Gate
from api.observer import Observer
from api.operations import pause
from api.operations import routes as operations
from api.operations.operations import Operations
from api.operations.switchover import Switchover
from api.problems import Problem
from api.register import routes as register
from appliance.config import Config
from appliance.query.engine import Engine
from appliance.state import StateReader

DESCRIPTION = """What a node of Tandem knows: its state, its part in the cluster, its ledger, and
the flow records it stores.

Times are nanoseconds since the epoch, or ISO 8601 text in parameters. Byte and packet counts are
scaled by the sampling rate where it is known; rows whose rate is unknown are marked. Every error is
a problem document (RFC 9457). Where `api.token_file` is set, all but the health checks need a
token: `Authorization: Bearer …`."""

_PARTS = (
    *(health, cluster, drain, operations, pause, register),
    *(drill_clients, drills, drill_node),
    *(exporters, ledger, flows, metrics),
)
_TOKENS_SECONDS = 1.0
"""How often it is looked whether there are other tokens."""


def create_app(config: Config) -> FastAPI:
    """The application for the node that ``config`` describes."""
    tokens = Tokens(config.api)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        api = config.api
        app.state.config = config
        app.state.observer = observer = Observer(config)
        app.state.queries = Gate("query", api.concurrent_queries, api.query_seconds)
        app.state.reads = Gate("read", 2, api.query_seconds)
        app.state.engine = Engine(config.data_dir, seconds=api.query_seconds)
        app.state.state = StateReader(config.data_dir, config.elements.files)
        tokens.refresh()
        tokens.make_local()
        renewing = asyncio.create_task(_renew(tokens))
        app.state.operations = running = Operations(
            observer.name, observer.register, observer.replicator, observer.answers, observer.clock
        )
        app.state.following = set()
        running.actions["switchover"] = Switchover(observer)
        app.state.drill_node = part = DrillNode(
            observer, app.state.engine, app.state.state, app.state.reads
        )
        app.state.drills = action = DrillAction(observer, DrillNodes(observer, part))
        running.actions["drill"] = action
        await observer.start()
        await running.start()
        sending = asyncio.create_task(send_as_ordered(observer))
        yield
        sending.cancel()
        await running.stop()
        await observer.stop()
        renewing.cancel()
        app.state.queries.close()
        app.state.reads.close()
        app.state.engine.close()

    app = FastAPI(
        title="Tandem",
        version=appliance.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        # the bundled pages of documentation fetch scripts from elsewhere; a node may be offline
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(_each_once)],
    )
    problems.install(app)
    app.add_middleware(Access, tokens=tokens, api=config.api)
    for part in _PARTS:
        app.include_router(part.router)
    return app


async def _renew(tokens: Tokens) -> None:
    while True:
        await asyncio.sleep(_TOKENS_SECONDS)
        await asyncio.to_thread(tokens.refresh)


async def _each_once(request: Request) -> None:
    """Refuse a parameter that is there twice, of which one would be ignored without a word."""
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name in seen:
            raise Problem.parameter(name, "given twice")
        seen.add(name)
