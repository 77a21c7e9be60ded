"""Export datagrams of many exporters: NetFlow v5 and v9, IPFIX and sFlow v5.

Blocks are laid out in one buffer without a Python object for each datagram, so that millions of
flows a second can be generated, and sent as they are (see :mod:`benchmarks.send`).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.traffic import Columns, Traffic

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

UPTIME_MS = 900_000_000
NAMES = [b"https", b"http", b"dns", b"ssh", b"quic", b"ms-teams", b"bittorrent", b"youtube-video"]

# (column, element, bytes): what a router's IPv4 flow cache typically has
V9_FIELDS = (
    ("src_addr", 8, 4),
    ("dst_addr", 12, 4),
    ("src_port", 7, 2),
    ("dst_port", 11, 2),
    ("protocol", 4, 1),
    ("tos", 5, 1),
    ("tcp_flags", 6, 1),
    ("bytes", 1, 4),
    ("packets", 2, 4),
    ("first", 22, 4),
    ("last", 21, 4),
    ("in_if", 10, 4),
    ("out_if", 14, 4),
    ("next_hop", 15, 4),
)
IPFIX_FIELDS = (
    *V9_FIELDS[:7],
    ("bytes", 1, 4),
    ("packets", 2, 4),
    ("first_ms", 152, 8),
    ("last_ms", 153, 8),
    ("in_if", 10, 4),
    ("out_if", 14, 4),
)  # and applicationName, of variable length
AS_FIELDS = (("src_as", 16, 4), ("dst_as", 17, 4))
TEMPLATE = 256
APPLICATION_NAME, VARIABLE = 96, 0xFFFF
FIRST_ADDRESS = 0x7F100001
"""127.16.0.1: exporter ``i`` has the ``i``-th address from here."""
Field = tuple[str, int, int]

V5_RECORD = (
    ("src_addr", 4),
    ("dst_addr", 4),
    ("next_hop", 4),
    ("in_if", 2),
    ("out_if", 2),
    ("packets", 4),
    ("bytes", 4),
    ("first", 4),
    ("last", 4),
    ("src_port", 2),
    ("dst_port", 2),
    ("", 1),
    ("tcp_flags", 1),
    ("protocol", 1),
    ("tos", 1),
    ("src_as", 2),
    ("dst_as", 2),
    ("", 4),
)
FRAME_BYTES = 128
RECORDS = {"v5": 30, "v9": 24, "ipfix": 24, "sflow": 4}
"""Flow records (sFlow: samples) of a data datagram."""


@dataclass(slots=True)
class Load:
    """``n`` datagrams: ``buffer[offset[i]:][:length[i]]`` comes from exporter ``exporter[i]``."""

    buffer: U8
    offset: I64
    length: I64
    exporter: I64
    flows: int

    def __len__(self) -> int:
        return len(self.offset)


def layouts(count: int) -> list[tuple[Field, ...]]:
    """``count`` different v9 templates (at most 42) of a fleet; the first is V9_FIELDS."""
    size = len(V9_FIELDS)
    return [
        V9_FIELDS[k % size :] + V9_FIELDS[: k % size] + AS_FIELDS[: k // size] for k in range(count)
    ]


class Generator:
    """Blocks of one protocol from ``exporters`` exporters, each with its own sequence numbers."""

    def __init__(
        self, protocol: str, exporters: int = 8, templates: int = 1, seed: int = 1
    ) -> None:
        self.protocol = protocol
        self.exporters = exporters
        self._traffic = Traffic(seed)
        self._rng = np.random.default_rng(seed)
        self._layouts = layouts(templates)
        self._sequence = np.zeros(exporters, np.int64)
        self._seconds = int(time.time())

    def templates(self) -> Load:
        """One datagram of all templates from each exporter; nothing for v5 and sFlow."""
        if self.protocol not in ("v9", "ipfix"):
            return _load(np.zeros((0, 0), np.uint8), np.zeros(0, np.int64), 0)
        if self.protocol == "ipfix":
            body = _definition(TEMPLATE, (*IPFIX_FIELDS, ("", APPLICATION_NAME, VARIABLE)))
        else:
            body = b"".join(_definition(TEMPLATE + k, t) for k, t in enumerate(self._layouts))
        ids = struct.pack(">HH", 2 if self.protocol == "ipfix" else 0, 4 + len(body))
        exporter = np.arange(self.exporters)
        header = self._header(exporter, 0, len(self._layouts), 4 + len(body))
        sets = np.tile(np.frombuffer(ids + body, np.uint8), (self.exporters, 1))
        return _load(np.hstack([header, sets]), exporter, 0)

    def block(self, datagrams: int) -> Load:
        """Data datagrams, each of a randomly chosen exporter."""
        flows = datagrams * RECORDS[self.protocol]
        exporter = self._rng.integers(0, self.exporters, datagrams)
        columns = self._traffic.draw(flows)
        if self.protocol == "ipfix":
            return self._ipfix(exporter, columns)
        if self.protocol == "sflow":
            return _load(self._sflow(exporter, columns), exporter, flows)
        columns["first"] = UPTIME_MS - columns["first"]
        columns["last"] = UPTIME_MS - columns["last"]
        if self.protocol == "v5":
            return _load(self._v5(exporter, columns), exporter, flows)
        return self._v9(exporter, columns)

    def _numbers(self, exporter: I64, unit: int) -> I64:
        """Sequence numbers of datagrams of ``unit`` each, in their order."""
        order = np.argsort(exporter, kind="stable")
        count = np.bincount(exporter, minlength=self.exporters)
        within = np.arange(len(exporter)) - np.repeat(np.cumsum(count) - count, count)
        numbers = np.empty(len(exporter), np.int64)
        numbers[order] = self._sequence[exporter[order]] + within * unit
        self._sequence += count * unit
        return numbers

    def _header(self, exporter: I64, records: int, count: int, body: int | I64) -> U8:
        """Message headers of v9 (``count`` records) or IPFIX (``body`` bytes follow)."""
        if self.protocol == "ipfix":
            start: list[tuple[int | I64, int]] = [(10, 2), (np.asarray(body) + 16, 2)]
            number = self._numbers(exporter, records)
        else:
            start = [(9, 2), (count, 2), (UPTIME_MS, 4)]
            number = self._numbers(exporter, 1)
        return words([*start, (self._seconds, 4), (number, 4), (exporter & 3, 4)], len(exporter))

    def _v9(self, exporter: I64, columns: Columns) -> Load:
        n = len(exporter)
        chosen = self._rng.integers(0, len(self._layouts), n)
        header = self._header(exporter, 24, 24, 0)
        parts, length = [], np.zeros(n, np.int64)
        for k, layout in enumerate(self._layouts):
            mine = np.flatnonzero(chosen == k)
            flows = (mine[:, None] * 24 + np.arange(24)).ravel()
            body = words([(columns[name][flows], size) for name, _, size in layout], len(flows))
            body = body.reshape(len(mine), 24 * body.shape[1])
            body = np.pad(body, ((0, 0), (0, -body.shape[1] % 4)))
            head = words([(TEMPLATE + k, 2), (4 + body.shape[1], 2)], len(mine))
            parts.append(np.hstack([header[mine], head, body]))
            length[mine] = parts[-1].shape[1]
        # in the buffer the datagrams lie template by template; they are sent in their own order
        order = np.argsort(chosen, kind="stable")
        offset = np.empty(n, np.int64)
        offset[order] = np.cumsum(length[order]) - length[order]
        return Load(np.concatenate([p.ravel() for p in parts]), offset, length, exporter, n * 24)

    def _v5(self, exporter: I64, columns: Columns) -> U8:
        n = len(exporter)
        number = self._numbers(exporter, 30)
        head = words(
            [(5, 2), (30, 2), (UPTIME_MS, 4), (self._seconds, 4), (0, 4), (number, 4), (0, 4)], n
        )
        fields = [(columns[name] if name else 0, size) for name, size in V5_RECORD]
        return np.hstack([head, words(fields, n * 30).reshape(n, -1)])

    def _ipfix(self, exporter: I64, columns: Columns) -> Load:
        n, now = len(exporter), self._seconds * 1000
        columns["first_ms"], columns["last_ms"] = now - columns["first"], now - columns["last"]
        fixed = words([(columns[name], size) for name, _, size in IPFIX_FIELDS], n * 24)
        texts = [bytes([len(name)]) + name for name in NAMES]
        padded = np.array([t.ljust(max(map(len, texts)), b"\0") for t in texts])
        names = padded.view(np.uint8).reshape(len(texts), -1)
        chosen = names[(columns["dst_port"] + columns["src_port"]) % len(NAMES)]
        used = fixed.shape[1] + 1 + chosen[:, 0].astype(np.int64)
        records = np.hstack([fixed, chosen])
        bodies = used.reshape(n, 24).sum(axis=1)
        head = np.hstack(
            [self._header(exporter, 24, 0, 4 + bodies), words([(TEMPLATE, 2), (4 + bodies, 2)], n)]
        )
        length = bodies + head.shape[1]
        offset = np.cumsum(length) - length
        in_head = np.zeros(int(length.sum()), np.bool_)
        in_head[(offset[:, None] + np.arange(head.shape[1])).ravel()] = True
        buffer = np.empty(len(in_head), np.uint8)
        buffer[in_head] = head.ravel()
        buffer[~in_head] = records[np.arange(records.shape[1]) < used[:, None]]
        return Load(buffer, offset, length, exporter, n * 24)

    def _sflow(self, exporter: I64, columns: Columns) -> U8:
        n, samples = len(exporter), len(exporter) * 4
        number = self._numbers(exporter, 1)
        sample = (number[:, None] * 4 + np.arange(4)).ravel()
        size = np.clip(columns["bytes"] // columns["packets"], FRAME_BYTES, 1500)
        flow_sample: list[tuple[int | I64, int]] = [
            (1, 4),
            (32 + 24 + FRAME_BYTES + 24, 4),
            (sample, 4),
            (columns["in_if"], 4),
            (1000, 4),
            (sample * 1000, 4),
            (0, 4),
            (columns["in_if"], 4),
            (columns["out_if"], 4),
            (2, 4),
        ]
        raw_header = [(1, 4), (16 + FRAME_BYTES, 4), (1, 4), (size + 18, 4), (4, 4)]
        body = np.hstack(
            [
                words([*flow_sample, *raw_header, (FRAME_BYTES, 4)], samples),
                frames(columns, size, self._rng),
                words([(1001, 4), (16, 4), (100, 4), (0, 4), (200, 4), (0, 4)], samples),
            ]
        )
        agent = FIRST_ADDRESS + exporter
        head = words([(5, 4), (1, 4), (agent, 4), (0, 4), (number, 4), (UPTIME_MS, 4), (4, 4)], n)
        return np.hstack([head, body.reshape(n, -1)])


def _definition(number: int, layout: tuple[Field, ...]) -> bytes:
    fields = b"".join(struct.pack(">HH", element, size) for _, element, size in layout)
    return struct.pack(">HH", number, len(layout)) + fields


def words(fields: Sequence[tuple[int | I64, int]], n: int) -> U8:
    """``n`` big-endian records: uint8 ``(n, record bytes)``; fields are (values, bytes)."""
    out = np.empty((n, sum(size for _, size in fields)), np.uint8)
    at = 0
    for value, size in fields:
        wide = np.broadcast_to(np.asarray(value, ">u8"), n).copy().view(np.uint8).reshape(n, 8)
        out[:, at : at + size] = wide[:, 8 - size :]
        at += size
    return out


def frames(columns: Columns, size: I64, rng: np.random.Generator) -> U8:
    """Ethernet, IPv4 and transport headers, then random payload: uint8 ``(n, 128)``."""
    head = words(
        [
            (0x020000000000 + columns["out_if"], 6),
            (0x020000000000 + columns["in_if"], 6),
            (0x0800, 2),
            (0x45, 1),
            (columns["tos"], 1),
            (size, 2),
            (0, 4),
            (64, 1),
            (columns["protocol"], 1),
            (0, 2),
            (columns["src_addr"], 4),
            (columns["dst_addr"], 4),
            (columns["src_port"], 2),
            (columns["dst_port"], 2),
            (columns["first"], 8),
            (0x50, 1),
            (columns["tcp_flags"], 1),
        ],
        len(size),
    )
    payload = (len(size), FRAME_BYTES - head.shape[1])
    return np.hstack([head, rng.integers(0, 256, payload, np.uint8)])


def _load(rows: U8, exporter: I64, flows: int) -> Load:
    length = np.full(len(rows), rows.shape[1], np.int64)
    return Load(rows.ravel(), np.cumsum(length) - length, length, exporter, flows)
