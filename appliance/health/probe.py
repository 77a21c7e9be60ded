"""Sends canaries to every shard, and reads in the pulse what came of them."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from appliance.health.judge import Sight
from appliance.health.pulse import Problem, Pulse, PulseError, Row
from appliance.receive.sockets import Endpoint
from appliance.receive.steer import index_of

log = logging.getLogger(__name__)

_IPV6_FREEBIND: Final = 78
_ANY: Final = {"::": "127.0.0.1", "0.0.0.0": "127.0.0.1"}
_SOURCES: Final = {
    socket.AF_INET: ipaddress.ip_network("127.0.0.0/8"),
    socket.AF_INET6: ipaddress.ip_network("100::/64"),
}
"""Addresses that no exporter has (loopback, and the discard prefix of RFC 6666): the steering goes
by the source."""


def source_addresses(family: socket.AddressFamily, shards: int) -> list[str]:
    """For each shard an address from which datagrams are steered to it."""
    found: dict[int, str] = {}
    for address in _SOURCES[family].hosts():
        found.setdefault(index_of(address.packed, shards), str(address))
        if len(found) == shards:
            break
    return [found[k] for k in range(shards)]


class Sender:
    """A socket for each shard and family; canaries go through the listeners in turn."""

    def __init__(self, endpoints: Sequence[Endpoint], shards: int) -> None:
        self._targets = [
            (e.family if e.address not in _ANY else socket.AF_INET,
             (_ANY.get(e.address, e.address), e.port))
            for e in endpoints
        ]  # fmt: skip
        self._sockets = {
            family: [_bound(family, address) for address in source_addresses(family, shards)]
            for family in {family for family, _ in self._targets}
        }
        self._turn = itertools.cycle(range(len(self._targets)))

    def send(self, payload: bytes) -> None:
        """Send ``payload`` to every shard, through the listener whose turn it is."""
        family, target = self._targets[next(self._turn)]
        for sock in self._sockets[family]:
            with contextlib.suppress(OSError):  # what does not arrive is seen in the pulse
                sock.sendto(payload, target)

    def close(self) -> None:
        """Close the sockets."""
        for sock in itertools.chain(*self._sockets.values()):
            sock.close()


def _bound(family: socket.AddressFamily, address: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    sock.bind((address, 0))
    sock.setblocking(False)
    return sock


@dataclass(slots=True)
class _Shard:
    """What is remembered of a shard between two looks; times are those of :class:`Watch`."""

    proven: int
    """The last proof, of whichever process."""
    server: int = 0
    since: int = 0
    """Since when this server (or none) is there."""
    known: bool = False
    answered: dict[int, int] = field(default_factory=dict)
    """By column of the listener: the last proof that it is read."""
    datagrams: dict[int, int] = field(default_factory=dict)
    problem: Problem | None = None
    problem_since: int = 0


class Watch:
    """Turns the pulse into sights of the shards.

    Its time is that for which it has watched, in ns: it counts no more than two periods between two
    looks, however long this process, or the whole machine, stood still. What nobody waited for is
    not overdue. A canary's number is the time at which it was sent.
    """

    def __init__(self, path: Path, shards: int, period: float, now: int) -> None:
        """``now``: where its time begins; larger than that of any process before (monotonic)."""
        self._path = path
        self.listeners: dict[int, str] = {}
        """Those that the collector wants canaries through, by their column of the pulse."""
        self._revision = 0
        self._period = int(period * 1e9)
        self._pulse: Pulse | None = None
        self._said = ""
        self._real = self.now = now
        self._shards = [_Shard(now, since=now) for _ in range(shards)]

    def tick(self, real: int) -> None:
        """Let time pass; ``real``: the monotonic clock, ns."""
        self.now += min(real - self._real, 2 * self._period)
        self._real = real

    def look(self) -> list[Sight]:
        """The shards as they are now."""
        rows = self._rows()
        return [self._sight(shard, row) for shard, row in zip(self._shards, rows, strict=True)]

    def ages(self) -> list[float | None]:
        """Seconds since the last proof of each shard; None where there was none."""
        return [(self.now - s.proven) / 1e9 if s.known else None for s in self._shards]

    def _rows(self) -> Sequence[Row | None]:
        """The rows of the pulse as the path names it now: a new collector makes a new one."""
        try:
            inode = self._path.stat().st_ino
            if self._pulse is None or self._pulse.inode != inode:
                if self._pulse is not None:
                    self._pulse.close()
                    self._pulse = None
                self._pulse = Pulse.open(self._path, len(self._shards))
                self._revision = 0
            if self._pulse.revision != self._revision:
                # first the revision: names that change while they are read are read again
                self._revision = self._pulse.revision
                self._learn(self._pulse.shown())
            return self._pulse.rows
        except (OSError, PulseError) as error:
            if str(error) != self._said:
                log.warning("%s", error)
            self._said = str(error)
            return [None] * len(self._shards)

    def _learn(self, listeners: dict[int, str]) -> None:
        """Listeners have come or gone: a new one is as good as those before until it is asked."""
        same = {i for i, name in listeners.items() if self.listeners.get(i) == name}
        for shard in self._shards:
            newest = max(shard.answered.values(), default=shard.since)
            shard.answered = {i: shard.answered.get(i, newest) if i in same else newest
                              for i in listeners}  # fmt: skip
            shard.datagrams = {i: n for i, n in shard.datagrams.items() if i in same}
        self.listeners = listeners

    def _sight(self, shard: _Shard, row: Row | None) -> Sight:
        server = row.server() if row else 0
        if server != shard.server:
            shard.server, shard.since = server, self.now
            shard.answered = dict.fromkeys(self.listeners, self.now)
            shard.datagrams = {}
        if row is None or not server:
            return Sight(False, shard.known, False, 0.0, (self.now - shard.proven) / 1e9)
        proven = False
        for i in self.listeners:
            moved, newest = row.datagrams(i), row.newest(i)
            # under load a canary may find the buffer full; that it is being emptied proves as much
            proof = self.now if moved != shard.datagrams.get(i, moved) else newest
            shard.datagrams[i] = moved
            if proof > shard.since:
                shard.answered[i] = max(shard.answered[i], proof)
        newest = max(shard.answered.values(), default=shard.since)
        if newest > shard.since:
            proven = shard.known = True
            shard.proven = newest
        error, lasted, where = self._error(shard, row.problem())
        return Sight(
            True, shard.known, proven, self._overdue(shard), (self.now - shard.proven) / 1e9,
            error, lasted, where,
        )  # fmt: skip

    def _overdue(self, shard: _Shard) -> float:
        """A listener is asked only when its turn comes, so its answer may be as much later."""
        answered = shard.answered.values()
        newest = self.now - max(answered, default=self.now) - self._period
        oldest = (self.now - min(answered, default=self.now)) // max(len(answered), 1)
        return max(newest, oldest - self._period, 0) / 1e9

    def _error(self, shard: _Shard, problem: Problem | None) -> tuple[int, float, str]:
        if problem is None:
            shard.problem = None
            return 0, 0.0, ""
        if problem != shard.problem:
            shard.problem, shard.problem_since = problem, self.now
        return problem.errno, (self.now - shard.problem_since) / 1e9, problem.where
