"""What is fuzzed: any sequence of datagrams, through decoder, state and JSON.

An input is a list of datagrams, each with two octets of length before it; a length beyond the input
means its rest. The decoder keeps its state over :data:`LIFETIME` inputs, so that data, options and
templates of different inputs meet; then it starts anew, and what it learnt has to come back from
its dump.
"""

from __future__ import annotations

import resource
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from appliance.batch import IPV4_MAPPED_PREFIX, DatagramBatch
from appliance.decode import Decoder
from appliance.decode.limits import Limits
from appliance.offline.render import Renderer
from tests import builders
from tests.builders import VARIABLE
from tests.decoding import check, decoder, registry

LIFETIME = 2000
"""Inputs that one decoder sees."""
RENDERED = 8
"""One input in so many is also made JSON, which takes longer than to decode it."""
MAX_SECONDS = 1.0
MAX_DATAGRAMS = 16
MAX_GROWTH = 32 << 20
"""Octets of resident memory that inputs may add, after :data:`WARM` of them."""
WARM = 6000
LIMITS = Limits(
    templates_per_exporter=256,
    templates=4096,
    held_bytes_per_exporter=1 << 16,
    held_bytes=1 << 18,
    options_per_exporter=256,
)
"""Small, so that the limits are met, and what does not keep to them is seen soon."""


class FindingError(Exception):
    """The decoder did what it must not do."""


def split(data: bytes) -> Iterator[bytes]:
    """The datagrams of an input."""
    at = 0
    for _ in range(MAX_DATAGRAMS):
        if at + 2 > len(data):
            return
        size = int.from_bytes(data[at : at + 2], "big")
        yield data[at + 2 : at + 2 + size]
        at += 2 + size


def joined(datagrams: list[bytes]) -> bytes:
    """The input of ``datagrams``."""
    return b"".join(struct.pack(">H", len(d)) + d for d in datagrams)


@dataclass
class Target:
    """Runs inputs; raises :class:`FindingError`, or whatever the decoder raises."""

    runs: int = 0
    slowest_s: float = 0.0
    datagrams: int = 0
    records: int = 0
    _decoder: Decoder = field(default_factory=lambda: decoder(LIMITS))
    _renderer: Renderer = field(default_factory=lambda: Renderer(registry()))

    def __call__(self, data: bytes) -> None:
        """Run one input."""
        began = time.perf_counter()
        self.runs += 1
        payloads = list(split(data))
        if not payloads:
            return
        self._decode(payloads)
        self.slowest_s = max(self.slowest_s, time.perf_counter() - began)
        if self.slowest_s > MAX_SECONDS:
            raise FindingError(f"an input took {self.slowest_s:.1f} s")
        if self.runs % LIFETIME == 0:
            self._restart()

    def _decode(self, payloads: list[bytes]) -> None:
        n = len(payloads)
        # two exporters, and TCP sessions for some, by what the datagram itself says
        addresses = [IPV4_MAPPED_PREFIX + bytes([192, 0, 2, len(p) & 1]) for p in payloads]
        sessions = [1 if len(p) % 16 == 3 else 0 for p in payloads]
        now_ns = 1_700_000_000_000_000_000 + self.runs * 1_000_000_000
        batch = DatagramBatch.from_payloads(payloads, addresses, now_ns, 1, sessions)
        decoded = self._decoder.decode(batch, now_ns)
        check(decoded)
        self.datagrams += n
        self.records += int(decoded.records.sum())
        if self.runs % RENDERED:
            return
        for kind, batches in (
            ("", decoded.flows),
            ("counters", decoded.counters),
            ("options", decoded.options),
        ):
            for rows in batches:
                packet = pa.array(np.zeros(len(rows), np.int64))
                for line in self._renderer.lines(rows, packet, kind):
                    orjson.loads(line)

    def _restart(self) -> None:
        """A new decoder; what the old one learnt must survive a dump."""
        state, running = self._decoder.dump(), self._decoder.dump_held(everything=True)
        other = decoder(LIMITS)
        other.load(state, running)
        if other.dump() != state:
            raise FindingError("a restored decoder dumps another state")
        self._decoder = decoder(LIMITS)


class Watch:
    """Runs a corpus again and again in this process, and watches its memory."""

    def __init__(self) -> None:
        self._target = Target()
        self._start = 0

    def run(self, corpus: Path) -> int:
        """Run all inputs; returns by how many octets the process is larger than at first."""
        inputs = sorted(corpus.iterdir())
        while True:
            for path in inputs:
                self._target(path.read_bytes())
            if self._start or self._target.runs >= WARM:
                break
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        self._start = self._start or resident
        growth = resident - self._start
        if growth > MAX_GROWTH:
            raise FindingError(f"{growth >> 20} MiB more than at the start")
        return growth


def seeds() -> list[bytes]:
    """Inputs to begin with: every protocol, and the shapes of its contents."""
    flat = [(0, 8, 4), (0, 12, 4), (0, 7, 2), (0, 11, 2), (0, 4, 1), (0, 1, 4), (0, 2, 8)]
    flat += [(0, 22, 4), (0, 21, 4), (0, 70, 3), (0, 27, 16), (0, 56, 6), (0, 48, 2), (0, 10, 4)]
    size = sum(f[2] for f in flat)
    row = bytes(range(size))
    frame = bytes.fromhex(
        "0242ac1100020242ac11000308004500003400004000400600000a0000010a000002"
        "005001bb00000001000000015010200000000000"
    )
    lists = [(0, 291, VARIABLE), (0, 292, VARIABLE), (0, 293, VARIABLE), (0, 82, VARIABLE)]
    basic = b"\xff" + struct.pack(">HH", 8, 4) + bytes(8)
    sub = b"\xff" + struct.pack(">H", 256) + row
    multi = b"\xff" + struct.pack(">HH", 256, 4 + size) + row
    variable = builders.record(lists, [basic, sub, multi, b"eth0"])
    sampled = [(0, 315, VARIABLE), (0, 312, 2), (9, 12232, VARIABLE), (29305, 1, 8), (61001, 1, 3)]
    samples = builders.record(sampled, [frame, b"\0\x80", b"url", bytes(8), b"abc"])
    reduced = [(0, 1, 3), (0, 150, 4), (0, 152, 8), (0, 154, 8), (0, 156, 8), (0, 34, 4)]
    counters = builders.tagged(1, bytes(88))
    records = [builders.raw_header(frame), builders.tagged(1001, bytes(16))]
    gateway = struct.pack(">I4sIIIIIII", 1, bytes(4), 1, 2, 3, 1, 2, 1, 7) + bytes(8)
    return [
        joined(datagrams)
        for datagrams in (
            [builders.v5([builders.v5_record()] * 3)],
            [b"\0\1\0\2" + bytes(12) + bytes(range(96))],
            [b"\0\7\0\1" + bytes(20) + bytes(range(52))],
            [builders.v9([builders.template_set(256, flat, False), builders.set_of(256, row * 2)])],
            [
                builders.v9([builders.set_of(256, row)]),
                builders.v9([builders.template_set(256, flat, False)]),
            ],
            [
                builders.v9(
                    [
                        builders.options_set(257, [(0, 1, 4)], [(0, 48, 2), (0, 50, 4)], False),
                        builders.set_of(257, bytes(range(10)), 2),
                    ]
                )
            ],
            [
                builders.ipfix(
                    [
                        builders.template_set(256, flat, True),
                        builders.template_set(258, lists, True),
                        builders.set_of(258, variable),
                    ]
                )
            ],
            [
                builders.ipfix(
                    [builders.template_set(259, sampled, True), builders.set_of(259, samples)]
                )
            ],
            [
                builders.ipfix(
                    [
                        builders.template_set(260, reduced, True),
                        builders.set_of(260, bytes(range(35)) * 3),
                    ]
                ),
                builders.ipfix([builders.set_of(2, struct.pack(">HH", 260, 0))]),
                builders.ipfix([builders.set_of(2, struct.pack(">HH", 2, 0))]),
            ],
            [
                builders.ipfix(
                    [
                        builders.options_set(
                            261, [(0, 10, 4)], [(0, 82, VARIABLE), (0, 305, 4), (0, 306, 4)], True
                        ),
                        builders.set_of(261, b"\0\0\0\1\4eth0\0\0\0\1\0\0\0\x63"),
                    ]
                )
            ],
            [builders.sflow([builders.flow_sample(records), builders.counter_sample([counters])])],
            [
                builders.sflow(
                    [
                        builders.flow_sample([builders.tagged(1003, gateway)], expanded=True),
                        builders.tagged(5, bytes(40)),
                    ],
                    agent=bytes(16),
                )
            ],
        )
    ]
