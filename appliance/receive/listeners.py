"""All sockets of a collector: those handed over by the service manager, and new ones.

They change while the collector runs. One that is to go first *leaves*: it takes no further
datagram, and what waits in it is still received; only then it is closed.
"""

from __future__ import annotations

import logging
import re
import select
import socket
from dataclasses import dataclass, field

from appliance.config import Config, Listener
from appliance.receive import sockets, systemd
from appliance.receive.sockets import Endpoint, ListenError

log = logging.getLogger(__name__)

Handed = dict[str, dict[int, socket.socket]]
"""Sockets of the service manager, by stored name and number."""


@dataclass(slots=True)
class Listeners:
    """Sockets by the name of their listener."""

    groups: dict[str, list[socket.socket]] = field(default_factory=dict)
    """UDP: a socket a shard, in order of the shards."""
    streams: dict[str, tuple[socket.socket, bool]] = field(default_factory=dict)
    """TCP: the listening socket, and whether it speaks the PROXY protocol."""
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)
    """Those of ``groups`` that take nothing any more."""

    def add(self, config: Config, handed: Handed | None = None) -> None:
        """Open the listeners of ``config`` that are not open yet, with sockets of ``handed`` first.

        The service manager keeps them from then on. Raises ListenError, and leaves all as it was.
        """
        handed = {} if handed is None else handed
        new: dict[str, bool] = {}
        try:
            for listener in config.listener:
                endpoint = endpoint_of(listener)
                if str(endpoint) not in self.endpoints:
                    new[str(endpoint)] = _stored_name(endpoint) in handed
                    self._open(endpoint, config, handed)
        except ListenError:
            for name, was_handed in new.items():
                if name not in self.endpoints:
                    continue
                if was_handed:  # what waits in them is for whoever opens them next
                    endpoint, group = self._remove(name)
                    handed[_stored_name(endpoint)] = dict(enumerate(group))
                else:
                    self.close(name)
            raise
        for listener in config.listener:
            name = str(endpoint_of(listener))
            if name in self.streams:
                self.streams[name] = self.streams[name][0], listener.proxy_protocol

    def _open(self, endpoint: Endpoint, config: Config, handed: Handed) -> None:
        name, stored = str(endpoint), _stored_name(endpoint)
        kept = handed.pop(stored, {})
        had = set(kept)
        if endpoint.transport == "tcp":
            sock = kept.pop(min(kept)) if kept else sockets.open_tcp(endpoint)
            sock.setblocking(False)  # a socket unit hands over one that blocks
            for surplus in kept.values():
                surplus.close()
            self.streams[name] = sock, False
            group = [sock]
        else:
            buffer = config.receive.receive_buffer
            group = sockets.complete_group(endpoint, kept, config.receive.shards, buffer)
            self.groups[name] = group
        self.endpoints[name] = endpoint
        for k in set(range(len(group))) - had:
            systemd.store(f"{stored}.{k}", group[k])
        for k in had - set(range(len(group))):
            systemd.forget(f"{stored}.{k}")
        log.info("listening on %s%s", name, " (handed over)" if had else "")

    def leave(self, name: str) -> None:
        """Take no further datagram of a UDP listener."""
        try:
            sockets.seclude(self.groups[name])
        except OSError as error:  # say, its address is none of this machine any more
            log.warning("%s takes datagrams until it is closed: %s", name, error)
        self.leaving.add(name)
        self._forget(name)  # a process after this one must not be given sockets that are deaf

    def drained(self) -> bool:
        """Whether nothing waits in those that leave."""
        poller = select.poll()
        for name in self.leaving:
            for sock in self.groups[name]:
                poller.register(sock, select.POLLIN)
        return not poller.poll(0)

    def close(self, name: str) -> None:
        """Close a listener for good."""
        self._forget(name)
        self.drop(name)
        log.info("no longer listening on %s", name)

    def drop(self, name: str) -> None:
        """Close its sockets in this process; others that have them go on."""
        for sock in self._remove(name)[1]:
            sock.close()

    def _forget(self, name: str) -> None:
        """Have the service manager keep its sockets no longer."""
        count = len(self.groups[name]) if name in self.groups else 1
        for k in range(count):
            systemd.forget(f"{_stored_name(self.endpoints[name])}.{k}")

    def _remove(self, name: str) -> tuple[Endpoint, list[socket.socket]]:
        endpoint = self.endpoints.pop(name)
        self.leaving.discard(name)
        return endpoint, self.groups.pop(name, None) or [self.streams.pop(name)[0]]


def close_unused(handed: Handed) -> None:
    """Close what was handed over for no listener."""
    for name, unused in handed.items():
        log.warning("%d sockets named %r were handed over for no listener", len(unused), name)
        for k, sock in unused.items():
            systemd.forget(f"{name}.{k}")
            sock.close()


def endpoint_of(listener: Listener) -> Endpoint:
    """Where a listener of the configuration listens."""
    return Endpoint(listener.transport, str(listener.address), listener.port)


def _stored_name(endpoint: Endpoint) -> str:
    """The listener's part of a name in the file-descriptor store; a dot and the shard follow."""
    address = re.sub("[.:]", "_", endpoint.address)
    return f"{endpoint.transport}-{address}-{endpoint.port}"
