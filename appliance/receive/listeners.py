"""All sockets of a collector: those handed over by the service manager, and new ones."""

from __future__ import annotations

import logging
import re
import socket
from dataclasses import dataclass, field

from appliance.config import Config
from appliance.receive import sockets, systemd
from appliance.receive.sockets import Endpoint

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Listeners:
    """Sockets by the name of their listener, in the order of the configuration."""

    groups: dict[str, list[socket.socket]] = field(default_factory=dict)
    """UDP: a socket a shard, in order of the shards."""
    streams: dict[str, tuple[socket.socket, bool]] = field(default_factory=dict)
    """TCP: the listening socket, and whether it speaks the PROXY protocol."""
    endpoints: dict[str, Endpoint] = field(default_factory=dict)


def open_listeners(config: Config, handed: list[tuple[str, socket.socket]]) -> Listeners:
    """Make every listener's sockets, of those handed over where there are any.

    The service manager keeps them all from then on. Raises ListenError.
    """
    opened = Listeners()
    by_name = systemd.numbered(handed)
    shards = config.receive.shards
    for listener in config.listener:
        endpoint = Endpoint(listener.transport, str(listener.address), listener.port)
        name, stored = str(endpoint), _stored_name(endpoint)
        opened.endpoints[name] = endpoint
        kept = by_name.pop(stored, {})
        had = set(kept)
        if endpoint.transport == "tcp":
            sock = kept.pop(min(kept)) if kept else sockets.open_tcp(endpoint)
            sock.setblocking(False)  # a socket unit hands over one that blocks
            for surplus in kept.values():
                surplus.close()
            opened.streams[name] = (sock, listener.proxy_protocol)
            group = [sock]
        else:
            buffer = config.receive.receive_buffer
            group = opened.groups[name] = sockets.complete_group(endpoint, kept, shards, buffer)
        for k in set(range(len(group))) - had:
            systemd.store(f"{stored}.{k}", group[k])
        for k in had - set(range(len(group))):
            systemd.forget(f"{stored}.{k}")
        log.info("listening on %s%s", name, " (handed over)" if had else "")
    for name, unused in by_name.items():
        log.warning("%d sockets named %r were handed over for no listener", len(unused), name)
        for k, sock in unused.items():
            systemd.forget(f"{name}.{k}")
            sock.close()
    return opened


def _stored_name(endpoint: Endpoint) -> str:
    """The listener's part of a name in the file-descriptor store; a dot and the shard follow."""
    address = re.sub("[.:]", "_", endpoint.address)
    return f"{endpoint.transport}-{address}-{endpoint.port}"
