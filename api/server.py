"""Serving the application at the address that the configuration gives."""

from __future__ import annotations

import os
import socket

import uvicorn

from api.app import create_app
from appliance.config import Config


class CannotListen(Exception):  # noqa: N818 - says what happened
    """The address cannot be bound; the message says what to do."""


def bind(config: Config) -> socket.socket:
    """A listening socket at the API's address; raises :class:`CannotListen`."""
    address, port = str(config.api.address), config.api.port
    family = socket.AF_INET6 if config.api.address.version == 6 else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=256)
    except OSError as error:
        # create_server adds the address to strerror, which is named already
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise CannotListen(
            f"the API cannot listen on {address} port {port}: {reason}; "
            "set api.address and api.port to what is free here"
        ) from None


def serve(config: Config, sock: socket.socket | None = None) -> None:
    """Serve until SIGINT or SIGTERM."""
    sock = sock or bind(config)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(config),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )
    server.run(sockets=[sock])
