"""Send what a capture holds to a collector, as the exporters in it did.

A datagram goes out whole and in the order of the capture, from a socket per exporter (and per port
of the exporter). The source address is, the first that works:

1. the exporter's own address, where this host has it;
2. towards a loopback address of IPv4, ``127.64.0.1`` and up, one for each exporter, in the order of
   their first datagrams: a collector on this host still sees them apart;
3. what the routing table says.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from appliance.batch import I64
from appliance.offline.capture import Capture, CaptureBatch

BURST_S = 0.01
"""Longest time that one burst makes up for: 10 ms of the rate."""
MAX_SOCKETS = 512
"""Sockets open at a time; the one unused longest is closed for a new one."""
_FIRST_LOOPBACK = int(ipaddress.IPv4Address("127.64.0.1"))
_LOOPBACKS = 1 << 22
_SEND_BUFFER = 1 << 20

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ReplayError(Exception):
    """A target that cannot be sent to; says what to do."""


@dataclass(slots=True)
class Replayed:
    """What was sent so far."""

    datagrams: int = 0
    octets: int = 0
    """Octets of payload."""
    refused: int = 0
    """Times that the target's host said that nothing listens at the port."""
    failed: int = 0
    """Datagrams that this host would not send, by size or for want of a route."""
    skipped: int = 0
    """Datagrams that are no IPFIX message, where only these can be sent (TCP)."""
    seconds: float = 0.0
    sources: dict[str, str] = field(default_factory=dict)
    """Source address used, by exporter address."""
    problems: list[str] = field(default_factory=list)
    """What was wrong with the capture files."""

    @property
    def rate(self) -> float:
        """Datagrams a second."""
        return self.datagrams / self.seconds if self.seconds else 0.0


def parse_target(text: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[IPv6]:PORT``; raises :class:`ReplayError`.

    >>> parse_target("[::1]:2055")
    ('::1', 2055)
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ReplayError(f"target {text!r}: write HOST:PORT, or [ADDRESS]:PORT for IPv6")
    return host.removeprefix("[").removesuffix("]"), int(port)


class Pace:
    """Says how many datagrams may go now; sleeps until at least one may.

    ``rate`` in datagrams a second; 0 is as fast as possible. With ``realtime`` the capture's own
    times count instead. A sender that cannot keep up is not allowed to catch up in a larger burst.
    """

    def __init__(self, rate: float = 0.0, realtime: bool = False) -> None:
        self._rate = rate
        self._realtime = realtime
        self._burst = max(1, int(rate * BURST_S))
        self._granted = 0
        self._start = 0.0
        self._first_ns = 0

    def restart(self, first_ns: int) -> None:
        """A new pass over a capture, whose first datagram has the time ``first_ns``."""
        self._first_ns = first_ns
        if self._realtime or not self._granted:
            self._start = time.perf_counter()

    def grant(self, times_ns: I64, at: int) -> int:
        """How many of the datagrams from ``at`` on may be sent now: at least 1."""
        if self._realtime:
            return self._by_time(times_ns, at)
        left = len(times_ns) - at
        if not self._rate:
            return left
        while True:
            now = time.perf_counter()
            due = int((now - self._start) * self._rate) + 1 - self._granted
            if due > 0:
                count = min(due, self._burst, left)
                self._granted += count
                if due > self._burst:
                    self._start = now - self._granted / self._rate
                return count
            # datagrams that are less than half a millisecond apart go out together
            time.sleep(max(self._start + self._granted / self._rate - now, 0.0005))

    def _by_time(self, times_ns: I64, at: int) -> int:
        while True:
            elapsed_ns = int((time.perf_counter() - self._start) * 1e9)
            later = times_ns[at:] > self._first_ns + elapsed_ns
            count = int(np.argmax(later)) if later.any() else len(later)
            if count:
                return count
            wait_ns = int(times_ns[at]) - self._first_ns - elapsed_ns
            time.sleep(max(wait_ns / 1e9, 0.0005))


class _Senders:
    """A connected socket for each exporter and port."""

    def __init__(self, host: str, port: int, tcp: bool, sources: dict[str, str]) -> None:
        self._kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        try:
            found = socket.getaddrinfo(host, port, type=self._kind)
        except socket.gaierror as error:
            raise ReplayError(
                f"target {host}: {error.strerror}; give an address or a name that resolves"
            ) from None
        self._family: socket.AddressFamily = found[0][0]
        self._target: tuple[Any, ...] = found[0][4]
        self._loopback = str(self._target[0]).startswith("127.")
        self._sources = sources
        self._sockets: OrderedDict[tuple[bytes, int], socket.socket] = OrderedDict()

    def get(self, address: bytes, port: int) -> socket.socket:
        """The socket of an exporter, given as 16 bytes, and its port."""
        key = (address, port)
        found = self._sockets.get(key)
        if found is None:
            if len(self._sockets) >= MAX_SOCKETS:
                self._sockets.popitem(last=False)[1].close()
            found = self._sockets[key] = self._open(address)
        else:
            self._sockets.move_to_end(key)
        return found

    def _open(self, address: bytes) -> socket.socket:
        sender = socket.socket(self._family, self._kind)
        exporter = _plain(address)
        for source in self._candidates(exporter):
            try:
                sender.bind((source, 0))
            except OSError:
                continue
            break
        try:
            if self._kind == socket.SOCK_DGRAM:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            sender.connect(self._target)
        except OSError as error:
            sender.close()
            raise ReplayError(
                f"target {self._target[0]} port {self._target[1]}: {error.strerror}; "
                "is it right, and does a collector listen there?"
            ) from None
        self._sources.setdefault(str(exporter), str(sender.getsockname()[0]))
        return sender

    def _candidates(self, exporter: Address) -> Iterable[str]:
        version = 4 if self._family == socket.AF_INET else 6
        if exporter.version == version:
            yield str(exporter)
        if self._loopback:
            given = self._sources.get(str(exporter))
            number = (_FIRST_LOOPBACK + len(self._sources) % _LOOPBACKS) if given is None else 0
            yield given or str(ipaddress.IPv4Address(number))

    def close(self) -> None:
        for sender in self._sockets.values():
            sender.close()


def _plain(address: bytes) -> Address:
    value = ipaddress.IPv6Address(address)
    return value.ipv4_mapped or value


def replay(
    paths: Iterable[str | Path],
    target: str,
    *,
    rate: float = 0.0,
    loop: int = 1,
    realtime: bool = False,
    tcp: bool = False,
    ports: frozenset[int] = frozenset(),
    total: Replayed | None = None,
    progress: Callable[[Replayed], None] | None = None,
) -> Replayed:
    """Send the datagrams of ``paths``, in order, to ``target`` (``HOST:PORT``), ``loop`` times.

    ``rate``: datagrams a second, 0 for as fast as possible; ``realtime``: as in the capture.
    ``tcp``: a TCP connection for each exporter, IPFIX messages only. ``ports``: only datagrams to
    these ports. ``progress`` is called about once a second with ``total``, which is also returned.
    Raises :class:`ReplayError` for the target, ``pcap.CaptureError`` for a file.
    """
    total = Replayed() if total is None else total
    host, port = parse_target(target)
    senders = _Senders(host, port, tcp, total.sources)
    pace = Pace(rate, realtime)
    began = reported = time.perf_counter()
    paths = list(paths)
    try:
        for turn in range(loop):
            for path in paths:
                capture = Capture(path, ports)
                fresh = True
                for batch in capture.batches():
                    if fresh:
                        pace.restart(int(batch.datagrams.received_ns[0]))
                        fresh = False
                    at = 0
                    while at < len(batch.datagrams):
                        count = pace.grant(batch.datagrams.received_ns, at)
                        _send(senders, batch, at, at + count, tcp, total)
                        at += count
                        now = time.perf_counter()
                        if now - reported >= 1.0:
                            reported = now
                            total.seconds = now - began
                            if progress is not None:
                                progress(total)
                if turn == 0:
                    total.problems += capture.problems
    finally:
        total.seconds = time.perf_counter() - began
        senders.close()
    return total


def _send(
    senders: _Senders, batch: CaptureBatch, first: int, stop: int, tcp: bool, total: Replayed
) -> None:
    rows = batch.datagrams
    data = rows.buffer.data
    places = zip(
        rows.offset[first:stop].tolist(),
        rows.length[first:stop].tolist(),
        rows.address[first:stop].view("V16").ravel().tolist(),
        rows.port[first:stop].tolist(),
        strict=True,
    )
    for offset, length, address, port in places:
        payload = data[offset : offset + length]
        if tcp and payload[:2].tobytes() != b"\0\x0a":
            total.skipped += 1
            continue
        sender = senders.get(address, port)
        try:
            if tcp:
                sender.sendall(payload)
            else:
                _send_datagram(sender, payload, total)
        except OSError as error:
            if tcp:
                raise ReplayError(
                    f"the collector ended the connection ({error.strerror}) after "
                    f"{total.datagrams} messages; its log says why"
                ) from None
            total.failed += 1
            continue
        total.datagrams += 1
        total.octets += length


def _send_datagram(sender: socket.socket, payload: memoryview, total: Replayed) -> None:
    try:
        sender.send(payload)
    except ConnectionRefusedError:
        # the answer to an earlier datagram: this one was not sent yet
        total.refused += 1
        sender.send(payload)
