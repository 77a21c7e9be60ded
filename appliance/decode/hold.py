"""Datagrams whose templates are not known yet: kept as sent, within bounds, until they are."""

from __future__ import annotations

import base64
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.decode.context import Status
from appliance.decode.limits import Limits


@dataclass(slots=True)
class HeldDatagram:
    """A datagram cut down to its header and the data sets that wait."""

    source: int
    exporter: int
    received_ns: int
    address: bytes
    port: int
    header: bytes
    sets: dict[int, bytes]
    """By template key: the data sets, with their headers, that wait for it."""
    session: int
    counted: bool = True
    """Whether its status is HELD: a worse one is its disposition for good."""

    @property
    def size(self) -> int:
        """Bytes that count against the limits: what the sets have, and what a Python object has."""
        return 200 + len(self.header) + sum(len(s) for s in self.sets.values())


@dataclass(slots=True)
class HoldQueue:
    """All held datagrams, oldest first; found by the key of the template that they wait for."""

    limits: Limits
    expired: list[HeldDatagram] = field(default_factory=list)
    """Datagrams given up for their age since the last :meth:`take_counts`."""
    evicted: list[HeldDatagram] = field(default_factory=list)
    """The same for a limit on bytes."""
    released: list[HeldDatagram] = field(default_factory=list)
    """Datagrams of which the last set could be decoded."""
    size: int = 0
    """Bytes held."""
    _held: OrderedDict[int, HeldDatagram] = field(default_factory=OrderedDict)
    _waiting: dict[int, set[int]] = field(default_factory=dict)
    _of_exporter: dict[int, OrderedDict[int, None]] = field(default_factory=dict)
    _exporter_bytes: dict[int, int] = field(default_factory=dict)
    _next: int = 0
    _fresh: list[tuple[int, HeldDatagram]] = field(default_factory=list)
    """What this batch has added, with its number in the batch."""

    def __len__(self) -> int:
        return len(self._held)

    def add(self, held: HeldDatagram, datagram: int = -1) -> None:
        """Keep ``held``; the exporter's oldest, then the oldest of all, make room for it.

        ``datagram``: its number in the batch, for :meth:`settle`.
        """
        size = held.size
        if datagram >= 0:
            self._fresh.append((datagram, held))
        limits = self.limits
        if size > min(limits.held_bytes_per_exporter, limits.held_bytes):
            self.evicted.append(held)
            return
        mine = self._of_exporter.setdefault(held.exporter, OrderedDict())
        while mine and (
            self._exporter_bytes[held.exporter] + size > limits.held_bytes_per_exporter
        ):
            self._give_up(next(iter(mine)), self.evicted)
        while self.size + size > limits.held_bytes:
            self._give_up(next(iter(self._held)), self.evicted)
        number = self._next
        self._next += 1
        self._held[number] = held
        self._of_exporter.setdefault(held.exporter, OrderedDict())[number] = None
        self.size += size
        self._exporter_bytes[held.exporter] = self._exporter_bytes.get(held.exporter, 0) + size
        for key in held.sets:
            self._waiting.setdefault(key, set()).add(number)

    def waits_for(self, key: int) -> bool:
        """Whether anything waits for template ``key``."""
        return key in self._waiting

    def resolve(self, keys: list[int]) -> list[tuple[HeldDatagram, dict[int, bytes]]]:
        """Take out the sets whose templates ``keys`` have come, oldest datagram first."""
        numbers: set[int] = set()
        for key in keys:
            numbers |= self._waiting.get(key, set())
        wanted = set(keys)
        found = []
        for number in sorted(numbers):
            held = self._held[number]
            size = held.size
            sets = {key: data for key, data in held.sets.items() if key in wanted}
            for key in sets:
                del held.sets[key]
                self._stop_waiting(key, number)
            found.append((held, sets))
            if held.sets:
                self._account(held, held.size - size)
            else:
                self._drop(number, size)
                self.released.append(held)
        return found

    def expire(self, now_ns: int) -> None:
        """Give up what has waited for too long."""
        before = now_ns - self.limits.held_ns
        while self._held:
            number, held = next(iter(self._held.items()))
            if held.received_ns > before:
                break
            self._give_up(number, self.expired)

    def settle(self, status: NDArray[np.uint8] | None) -> None:
        """The batch is decoded, and its datagrams have their ``status`` for good.

        None: what was added has another disposition already, having been held before, or being of
        a batch that failed.
        """
        for datagram, held in self._fresh:
            held.counted = status is not None and bool(status[datagram] == Status.HELD)
        self._fresh.clear()

    def take_counts(self) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
        """Expired, evicted and released datagrams by source since the last call.

        Those that the ledger does not count as held are left out.
        """
        counts = _by_source(self.expired), _by_source(self.evicted), _by_source(self.released)
        self.expired, self.evicted, self.released = [], [], []
        return counts

    def end_session(self, session: int) -> None:
        """Give up what waits for templates of a session that has ended."""
        for number in [n for n, held in self._held.items() if held.session == session]:
            self._give_up(number, self.expired)

    def _give_up(self, number: int, given_up: list[HeldDatagram]) -> None:
        held = self._held[number]
        for key in held.sets:
            self._stop_waiting(key, number)
        self._drop(number, held.size)
        given_up.append(held)

    def _drop(self, number: int, size: int) -> None:
        held = self._held.pop(number)
        self._account(held, -size)
        mine = self._of_exporter[held.exporter]
        del mine[number]
        if not mine:
            del self._of_exporter[held.exporter]
            del self._exporter_bytes[held.exporter]

    def _account(self, held: HeldDatagram, more: int) -> None:
        self.size += more
        self._exporter_bytes[held.exporter] += more

    def _stop_waiting(self, key: int, number: int) -> None:
        waiting = self._waiting[key]
        waiting.discard(number)
        if not waiting:
            del self._waiting[key]

    def dump(self) -> list[Any]:
        """Plain values for the checkpoint.

        Sessions do not outlive the process: of what waits in one, only that it was there is kept.
        """
        return [
            [
                h.source,
                h.exporter,
                h.received_ns,
                h.address.hex(),
                h.port,
                h.header.hex(),
                [] if h.session else _encode(h.sets),
                h.counted,
            ]
            for h in self._held.values()
        ]

    def load(self, dumped: list[Any]) -> None:
        """Restore what :meth:`dump` gave, into an empty queue."""
        for source, exporter, received, address, port, header, sets, counted in dumped:
            held = HeldDatagram(
                source,
                exporter,
                received,
                bytes.fromhex(address),
                port,
                bytes.fromhex(header),
                {int(key): base64.b64decode(data) for key, data in sets},
                0,
                counted,
            )
            if held.sets:
                self.add(held)
            else:
                self.expired.append(held)


def _encode(sets: dict[int, bytes]) -> list[list[Any]]:
    return [[key, base64.b64encode(data).decode()] for key, data in sets.items()]


def _by_source(given_up: list[HeldDatagram]) -> dict[int, int]:
    return dict(Counter(held.source for held in given_up if held.counted))
