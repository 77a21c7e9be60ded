"""The sockets of a listener: made here, or handed over by the service manager."""

from __future__ import annotations

import ipaddress
import logging
import socket
from dataclasses import dataclass

from appliance.receive import steer

log = logging.getLogger(__name__)

SO_RXQ_OVFL = 40
SO_TIMESTAMPNS = 35
SO_RCVBUFFORCE = 33
SO_REUSEPORT = 15
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::ffff:127.0.0.1"}
"""Of sockets that are bound to every address; IPv4's is there also where IPv6 is switched off."""


class ListenError(Exception):
    """A listener cannot be opened; the text says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a listener listens. ``transport`` is ``udp`` or ``tcp``."""

    transport: str
    address: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.transport}://{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """What :meth:`__str__` gives."""
        transport, _, where = text.partition("://")
        host, _, port = where.rpartition(":")
        return cls(transport, host.strip("[]"), int(port))

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6, by the address."""
        version = ipaddress.ip_address(self.address).version
        return socket.AF_INET6 if version == 6 else socket.AF_INET


def open_group(endpoint: Endpoint, shards: int, receive_buffer: int) -> list[socket.socket]:
    """One UDP socket a shard, all bound to ``endpoint``, steered by the exporter's address.

    ``receive_buffer``: bytes asked of the kernel for each socket. A listener on ``::`` takes IPv4
    too. Raises ListenError.
    """
    return complete_group(endpoint, {}, shards, receive_buffer)


def complete_group(
    endpoint: Endpoint, kept: dict[int, socket.socket], shards: int, receive_buffer: int
) -> list[socket.socket]:
    """The group of ``endpoint``: the sockets ``kept`` from before by their number, and new ones.

    The steering program answers with the order in which sockets were bound, so a gap in their
    numbers means that some exporters move to other shards. Those beyond ``shards`` are closed, last
    first: the kernel puts the last of a group into the place of one that is closed. Raises
    ListenError.
    """
    for number in sorted(kept, reverse=True):
        if number >= shards:
            kept.pop(number).close()
    if kept and max(kept) >= len(kept):
        log.warning("%s: some sockets were not kept; exporters move to other shards", endpoint)
    opened = dict(kept)
    try:
        for number in range(shards):
            if number not in opened:
                opened[number] = _udp(endpoint)
        group = [opened[number] for number in range(shards)]
        prepare_group(group, receive_buffer)
    except OSError as error:
        for sock in opened.values():
            sock.close()
        raise ListenError(_explain(endpoint, error)) from error
    return group


def prepare_group(group: list[socket.socket], receive_buffer: int) -> None:
    """Set what does not survive in, or was not set on, sockets that were handed over."""
    for sock in group:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        set_receive_buffer(sock, receive_buffer)
    if len(group) > 1:
        steer.attach(group[0], len(group))


def seclude(group: list[socket.socket]) -> None:
    """Let no further datagram into the UDP sockets of ``group``; what waits in them stays.

    A connected socket takes datagrams of its peer only. Its peer is now the socket itself, or its
    port of loopback: nobody else can send from there. What exporters send from now on finds another
    listener of the port, or none, just as if the sockets were closed. Raises OSError.
    """
    for sock in group:
        host, *rest = sock.getsockname()
        sock.connect((_LOOPBACK.get(host, host), *rest))


def set_receive_buffer(sock: socket.socket, size: int) -> int:
    """Force the receive buffer past net.core.rmem_max where allowed; returns bytes granted."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    if granted < size:
        log.debug("receive buffer: %d of %d bytes granted", granted, size)
    return granted


def _udp(endpoint: Endpoint) -> socket.socket:
    sock = socket.socket(endpoint.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_REUSEPORT, 1)
        if endpoint.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((endpoint.address, endpoint.port))
    except OSError:
        sock.close()
        raise
    return sock


def open_tcp(endpoint: Endpoint) -> socket.socket:
    """The listening socket of an IPFIX listener over TCP. Raises ListenError."""
    sock = socket.socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if endpoint.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((endpoint.address, endpoint.port))
        sock.listen(1024)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ListenError(_explain(endpoint, error)) from error
    return sock


def _explain(endpoint: Endpoint, error: OSError) -> str:
    remedy = {
        98: "another program has this port: stop it (ss -lunp shows it) or choose another port",
        99: "this machine has no such address: use one of its own, or :: for all",
        13: "ports below 1024 need CAP_NET_BIND_SERVICE: choose another port",
    }.get(error.errno or 0, "see the error")
    return f"cannot listen on {endpoint}: {error.strerror}; {remedy}"
