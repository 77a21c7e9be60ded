"""HAProxy's state, asked at its stats socket. The one place that knows haproxyadmin."""

from __future__ import annotations

from pathlib import Path

from haproxyadmin.haproxy import HAProxy  # type: ignore[import-untyped]
from pydantic import BaseModel, Field

from api.observe.source import Unavailable

_TIMEOUT = 0.5


class ProxyServer(BaseModel):
    """A server of a backend."""

    backend: str = Field(examples=["api"])
    server: str = Field(examples=["n1"])
    status: str = Field(examples=["UP"])


class ProxyState(BaseModel):
    """An HAProxy that answers."""

    version: str = Field(examples=["2.6.12"])
    uptime_seconds: int = Field(examples=[86400])
    connections: int = Field(examples=[3])
    servers: list[ProxyServer] = []


class Adapter:
    """Asks by a new connection each time, without repeats; to be used by a thread of its own."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def look(self) -> ProxyState:
        """The state now; raises :class:`Unavailable`."""
        if not self._socket.is_socket():
            raise Unavailable(f"down: there is no socket {self._socket}")
        try:
            proxy = HAProxy(
                socket_file=str(self._socket), retry=None, retry_interval=0, timeout=_TIMEOUT
            )
            return ProxyState(
                version=str(proxy.version),
                uptime_seconds=int(proxy.uptimesec),
                connections=int(proxy.metric("CurrConns")),
                servers=[
                    ProxyServer(backend=backend.name, server=server.name, status=server.status)
                    for backend in proxy.backends()
                    for server in backend.servers()
                ],
            )
        except ValueError:
            # the library's word for a socket at which nobody answers
            raise Unavailable(f"down: no answer at {self._socket}") from None
        except Exception as error:
            # the library lets through whatever an unexpected answer makes it stumble over
            raise Unavailable(f"down: {str(error) or type(error).__name__}") from None
