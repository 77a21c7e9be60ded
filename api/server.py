"""Serving the application: to people and programs, and to the other nodes of the cluster."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from api import tls
from api.access import PeerListener
from api.app import create_app
from appliance.config import Address, Api, Cluster, Config

_OPTIONS: dict[str, Any] = {
    "log_level": "warning",
    "access_log": False,
    "server_header": False,
    "timeout_graceful_shutdown": 2,
}


class CannotListen(Exception):  # noqa: N818 - says what happened
    """The address cannot be bound; the message says what to do."""


def bind(config: Config) -> socket.socket:
    """A listening socket at the API's address; raises :class:`CannotListen`."""
    return _listen(config.api.address, config.api.port, "api.address and api.port")


def _listen(address: Address, port: int, keys: str) -> socket.socket:
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        return socket.create_server((str(address), port), family=family, backlog=256)
    except OSError as error:
        # create_server adds the address to strerror, which is named already
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CannotListen(
            f"the API cannot listen on {address} port {port}: {reason}; "
            f"set {keys} to what is free here"
        ) from None


def bind_peers(cluster: Cluster, name: str) -> socket.socket:
    """A listening socket for the other nodes; raises :class:`CannotListen`."""
    if problem := tls.problem(cluster):
        raise CannotListen(problem)
    address = cluster.address_of(name)
    assert address is not None, "the configuration has this node"
    return _listen(address, cluster.port, "cluster.node and cluster.port")


def _check_tokens(api: Api) -> None:
    """Refuse to start where no token could be good; later, only the log says so."""
    try:
        if api.token_file is not None:
            api.token_file.read_bytes()
    except OSError as error:
        raise CannotListen(
            f"api.token_file: {api.token_file} cannot be read: {error.strerror}; put the digest "
            "of a token there (printf %s TOKEN | sha256sum), or correct its owner or permissions"
        ) from None


def serve(config: Config, sock: socket.socket | None = None, path: Path | None = None) -> None:
    """Serve until SIGINT or SIGTERM. ``path``: of the configuration file, if there is one."""
    _check_tokens(config.api)
    sock = sock or bind(config)
    app = create_app(config, path)
    cluster = config.cluster
    if cluster is None:
        uvicorn.Server(uvicorn.Config(app, **_OPTIONS)).run(sockets=[sock])
        return
    peer_sock = bind_peers(cluster, config.node.name)
    others = uvicorn.Config(
        PeerListener(app),
        lifespan="off",
        ssl_certfile=cluster.certificate,
        ssl_keyfile=cluster.key,
        ssl_ca_certs=str(cluster.ca),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
        # only nodes can connect, and what their HAProxy says of a client is true
        forwarded_allow_ips="*",
        **_OPTIONS,
    )
    _Both(uvicorn.Config(app, **_OPTIONS), _ForNodes(others), peer_sock).run(sockets=[sock])


class _ForNodes(uvicorn.Server):
    """The server that nodes talk to; signals are for the other one."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


class _Both(uvicorn.Server):
    """A server that has a second one beside it, for the same application and as long."""

    def __init__(self, config: uvicorn.Config, second: _ForNodes, sock: socket.socket) -> None:
        super().__init__(config)
        self._second = second
        self._sock = sock

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin; the application has begun when the second one does."""
        await super().startup(sockets)
        self._serving = asyncio.create_task(self._second.serve([self._sock]))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the second one, then the application."""
        self._second.should_exit = True
        await self._serving
        await super().shutdown(sockets)
