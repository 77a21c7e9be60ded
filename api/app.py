"""The application: its routes, its errors, who may ask, and what it holds while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI, Request

import appliance
from api import cluster, drain, exporters, flows, health, ledger, metrics, problems
from api.access import Access
from api.audit import routes as audit
from api.audit.watch import Audited
from api.config import routes as settings
from api.config.change import ConfigChange
from api.config.follow import follow
from api.config.node import NodeConfig
from api.drills import clients as drill_clients
from api.drills import node as drill_node
from api.drills import routes as drills
from api.drills.drill import DrillAction
from api.drills.node import DrillNode, DrillNodes
from api.drills.source import send_as_ordered
from api.gate import Gate
from api.headers import Headers
from api.observer import Observer
from api.openapi import describe
from api.operations import pause
from api.operations import routes as operations
from api.operations.operations import Operations
from api.operations.switchover import Switchover
from api.problems import Problem
from api.register import routes as register
from api.tokens import routes as token_routes
from api.tokens.known import Tokens
from appliance.config import Config
from appliance.query.engine import Engine
from appliance.state import StateReader

DESCRIPTION = """What a node of Tandem knows: its state, its part in the cluster, its ledger, and
the flow records it stores.

Times are nanoseconds since the epoch, or ISO 8601 text in parameters. Byte and packet counts are
scaled by the sampling rate where it is known; rows whose rate is unknown are marked. Every error is
a problem document (RFC 9457). Where `api.token_file` is set, all but the health checks need a
token: `Authorization: Bearer …`; `x-required-role` is the least role that it must have: `viewer`,
`operator` or `admin`."""

_PARTS = (
    *(health, cluster, drain, operations, pause, settings),
    *(token_routes, audit, register),
    *(drill_clients, drills, drill_node),
    *(exporters, ledger, flows, metrics),
)
_TOKENS_SECONDS = 1.0
"""How often it is looked whether there are other tokens."""


def create_app(config: Config, path: Path | None = None) -> FastAPI:
    """The application for the node that ``config`` describes, which is of the file ``path``."""
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
        tokens.follow(observer.register)
        tokens.refresh()
        tokens.make_local()
        renewing = asyncio.create_task(_renew(tokens))
        app.state.operations = running = Operations(
            observer.name, observer.register, observer.replicator, observer.answers, observer.clock
        )
        app.state.following = set()

        def used(config: Config) -> None:
            app.state.config = config
            observer.use(config)

        app.state.node_config = node_config = NodeConfig(path, config, used)
        running.actions["switchover"] = Switchover(observer)
        running.actions["config"] = ConfigChange(observer, node_config)
        app.state.drill_node = part = DrillNode(
            observer, app.state.engine, app.state.state, app.state.reads
        )
        app.state.drills = action = DrillAction(observer, DrillNodes(observer, part))
        running.actions["drill"] = action
        await observer.start()
        await running.start()
        following = [
            asyncio.create_task(send_as_ordered(observer)),
            asyncio.create_task(
                follow(observer.register, running, node_config, config.cluster is not None)
            ),
        ]
        yield
        for task in following:
            task.cancel()
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
        dependencies=[Depends(_parameters)],
        # what generated clients call their functions
        generate_unique_id_function=lambda route: route.name,
    )
    problems.install(app)
    # the last one is the outermost
    app.add_middleware(Access, tokens=tokens, api=config.api)
    app.add_middleware(Audited)
    app.add_middleware(Headers)
    for part in _PARTS:
        app.include_router(part.router)
    describe(app)
    return app


async def _renew(tokens: Tokens) -> None:
    while True:
        await asyncio.sleep(_TOKENS_SECONDS)
        await asyncio.to_thread(tokens.refresh)


async def _parameters(request: Request) -> None:
    """Refuse a parameter that is there twice, or that there is not: it would be ignored without a
    word.
    """
    path = getattr(request.scope.get("route"), "path_format", "")
    described = request.app.openapi()["paths"].get(path, {}).get(request.method.lower())
    known = {one["name"] for one in (described or {}).get("parameters", ()) if one["in"] == "query"}
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name in seen:
            raise Problem.parameter(name, "given twice")
        if described is not None and name not in known:
            raise Problem.parameter(name, "there is no such parameter")
        seen.add(name)
