"""Datagrams whose templates are not known yet: kept as sent, within bounds, until they are.

What is held must outlive the process, and can be much: so its dump is a log. :meth:`HoldQueue.dump`
gives, as a frame of bytes, what came and went since it was last asked; :meth:`HoldQueue.load` reads
any number of frames in order. Writing and reading files is the caller's.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from appliance.decode.context import Status
from appliance.decode.limits import Limits

_FRAME = struct.Struct("<III")
"""Bytes of the description (JSON), bytes of the payloads, CRC-32 of both."""


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
    status: Status = Status.DECODED
    """The worst of those of its sets that have been decoded."""

    @property
    def size(self) -> int:
        """Bytes that count against the limits: what the sets have, and what a Python object has."""
        return 200 + len(self.header) + sum(len(s) for s in self.sets.values())


class Found(NamedTuple):
    """Sets of a held datagram that can be decoded now."""

    number: int
    held: HeldDatagram
    sets: dict[int, bytes]


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
    _changed: set[int] = field(default_factory=set)
    """In no frame yet, or changed since."""
    _framed: set[int] = field(default_factory=set)
    """In a frame, and still held."""
    _gone: list[int] = field(default_factory=list)
    """In a frame, and no longer held."""

    def __len__(self) -> int:
        return len(self._held)

    def add(self, held: HeldDatagram) -> None:
        """Keep ``held``, unless its exporter has as much as it may; the oldest of all make room.

        Of one exporter it is the new one that goes, so that one without templates does not keep
        this node busy with storing what it is about to lose.
        """
        size = held.size
        limits = self.limits
        mine = self._exporter_bytes.get(held.exporter, 0)
        if mine + size > limits.held_bytes_per_exporter or size > limits.held_bytes:
            self.evicted.append(held)
            return
        while self.size + size > limits.held_bytes:
            self._give_up(next(iter(self._held)), self.evicted)
        self._put(self._next, held)
        self._next += 1

    def _put(self, number: int, held: HeldDatagram) -> None:
        self._held[number] = held
        self._of_exporter.setdefault(held.exporter, OrderedDict())[number] = None
        self._exporter_bytes.setdefault(held.exporter, 0)
        self._account(held, held.size)
        for key in held.sets:
            self._waiting.setdefault(key, set()).add(number)
        self._changed.add(number)

    def waits_for(self, key: int) -> bool:
        """Whether anything waits for template ``key``."""
        return key in self._waiting

    def find(self, keys: list[int]) -> list[Found]:
        """The sets whose templates ``keys`` have come, oldest datagram first; they stay here."""
        numbers: set[int] = set()
        for key in keys:
            numbers |= self._waiting.get(key, set())
        wanted = set(keys)
        found = []
        for number in sorted(numbers):
            held = self._held[number]
            sets = {key: data for key, data in held.sets.items() if key in wanted}
            found.append(Found(number, held, sets))
        return found

    def take(self, found: Iterable[Found]) -> None:
        """Take out what :meth:`find` gave."""
        for number, held, sets in found:
            size = held.size
            for key in sets:
                del held.sets[key]
                self._stop_waiting(key, number)
            if held.sets:
                self._account(held, held.size - size)
                self._changed.add(number)
            else:
                self._drop(number, size)
                self.released.append(held)

    def expire(self, now_ns: int) -> None:
        """Give up what has waited for too long."""
        before = now_ns - self.limits.held_ns
        while self._held:
            number, held = next(iter(self._held.items()))
            if held.received_ns > before:
                break
            self._give_up(number, self.expired)

    def take_counts(self) -> tuple[dict[int, int], dict[int, int], dict[tuple[int, Status], int]]:
        """Expired and evicted datagrams by source, released ones by source and status, since the
        last call. Those that the ledger does not count as held are left out.
        """
        released = Counter((h.source, h.status) for h in self.released if h.counted)
        counts = _by_source(self.expired), _by_source(self.evicted), dict(released)
        self.expired, self.evicted, self.released = [], [], []
        return counts

    def sessions(self) -> set[int]:
        """TCP sessions in which something waits."""
        return {held.session for held in self._held.values() if held.session}

    def end_session(self, session: int) -> None:
        """Give up what waits for templates of a session that has ended."""
        for number in [n for n, held in self._held.items() if held.session == session]:
            self._give_up(number, self.expired)

    def give_up(self) -> None:
        """Give up all that is held, as if a limit demanded it."""
        for number in list(self._held):
            self._give_up(number, self.evicted)

    def _give_up(self, number: int, given_up: list[HeldDatagram]) -> None:
        held = self._held[number]
        for key in held.sets:
            self._stop_waiting(key, number)
        self._drop(number, held.size)
        given_up.append(held)

    def _drop(self, number: int, size: int) -> None:
        held = self._held.pop(number)
        self._changed.discard(number)
        if number in self._framed:
            self._framed.discard(number)
            self._gone.append(number)
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

    def dump(self, everything: bool = False) -> bytes:
        """A frame of what came and went since the last call; empty when nothing did.

        With ``everything`` it describes all that is held, and no frame before it is needed.
        """
        if everything:
            self._changed, self._gone = set(self._held), []
        numbers, gone = sorted(self._changed), self._gone
        self._framed |= self._changed
        self._changed, self._gone = set(), []
        if not numbers and not gone:
            return b""
        blob: list[bytes] = []
        entries = []
        for number in numbers:
            h = self._held[number]
            blob += (h.address, h.header, *h.sets.values())
            lengths = [[key, len(data)] for key, data in h.sets.items()]
            known = (number, h.source, h.exporter, h.received_ns, h.port, h.session)
            entries.append([*known, h.counted, h.status, len(h.header), lengths])
        text = json.dumps({"gone": gone, "held": entries}, separators=(",", ":")).encode()
        body = text + b"".join(blob)
        return _FRAME.pack(len(text), len(body) - len(text), zlib.crc32(body)) + body

    def load(self, frames: bytes) -> None:
        """Restore what :meth:`dump` gave, into an empty queue; ValueError if it is damaged."""
        found: dict[int, HeldDatagram] = {}
        at = 0
        while at < len(frames):
            if at + _FRAME.size > len(frames):
                raise ValueError("held datagrams: a frame is cut short")
            text, blob, crc = _FRAME.unpack_from(frames, at)
            body = frames[at + _FRAME.size : at + _FRAME.size + text + blob]
            if len(body) != text + blob or zlib.crc32(body) != crc:
                raise ValueError("held datagrams: a frame fails its checksum")
            at += _FRAME.size + len(body)
            _read_frame(json.loads(body[:text]), body[text:], found)
        for number in sorted(found):
            self._put(number, found[number])
        self._next = max(found, default=-1) + 1
        self._changed, self._framed = set(), set(self._held)


def _read_frame(described: dict[str, Any], blob: bytes, found: dict[int, HeldDatagram]) -> None:
    """Apply one frame to ``found``, the datagrams held by their number."""
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        return blob[at - count : at]

    for number in described["gone"]:
        found.pop(number, None)
    for entry in described["held"]:
        number, source, exporter, received, port, session, counted, status, *lengths = entry
        header, sets = lengths
        found[number] = HeldDatagram(
            source,
            exporter,
            received,
            take(16),
            port,
            take(header),
            {int(key): take(count) for key, count in sets},
            session,
            counted,
            Status(status),
        )


def _by_source(given_up: list[HeldDatagram]) -> dict[int, int]:
    return dict(Counter(held.source for held in given_up if held.counted))
