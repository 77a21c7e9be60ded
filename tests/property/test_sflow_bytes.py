"""Any bytes may come in as sFlow: no error, bounded work, and each datagram for itself."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.batch import DatagramBatch
from appliance.columns import Columns, record_batch
from appliance.decode.context import DecodeContext, Status
from appliance.decode.sflow import decode
from appliance.decode.sources import SourceTable
from tests.packet_builders import ethernet, ipv4, ipv6, mpls, tcp, udp, vxlan
from tests.sflow_builders import (
    address,
    counter,
    datagram,
    discard,
    expanded_counter,
    expanded_flow,
    flow,
    gateway,
    opaque,
    raw_header,
    unit,
    words,
)

PACKETS = [
    ethernet(0x0800, ipv4(6, tcp()), 5),
    ethernet(0x86DD, ipv6(17, udp())),
    ethernet(0x8847, mpls([1, 2], ipv4(17, vxlan(7, ethernet(0x0800, ipv4(6, tcp())))))),
]
SEEDS = [
    datagram(*(flow(raw_header(p), unit(1001, words(1, 2, 3, 4))) for p in PACKETS)),
    datagram(
        flow(gateway("192.0.2.3", 1, 2, 3, [(2, [4, 5]), (1, [6])], [7, 8], 9)),
        expanded_flow(unit(1004, words(3) + opaque(b"user") + words(3) + opaque(b"x"))),
        discard(raw_header(PACKETS[0]), unit(1038, opaque(b"func"))),
        agent="2001:db8::1",
    ),
    datagram(
        counter(unit(1, bytes(88)), unit(2, bytes(52)), unit(1, bytes(88), enterprise=9)),
        expanded_counter(
            unit(2000, opaque(b"host") + bytes(24) + opaque(b"1.0")),
            unit(2001, words(2, 1, 1) + bytes(8) + words(2, 2) + bytes(16)),
        ),
        flow(unit(1002, address("2001:db8::9") + words(48, 64))),
    ),
]
HEADER = datagram()[:24]

words_of_interest = st.one_of(
    st.integers(0, 20),
    st.sampled_from([28, 32, 144, 1001, 1003, 2001, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1]),
).map(lambda value: value.to_bytes(4, "big"))
edits = st.lists(st.tuples(st.integers(0, 120), words_of_interest), max_size=5)


def _edit(seed: bytes, changes: list[tuple[int, bytes]], cut: int) -> bytes:
    out = bytearray(seed)
    for at, value in changes:
        start = at * 4 % len(out)
        out[start : start + 4] = value
    return bytes(out[: len(out) - cut])


payloads = st.one_of(
    st.builds(_edit, st.sampled_from(SEEDS), edits, st.integers(0, 90)),
    st.binary(max_size=300),
    st.lists(words_of_interest, max_size=60).map(lambda w: HEADER + b"".join(w)),
)


def _run(batch: list[bytes]) -> DecodeContext:
    datagrams = DatagramBatch.from_payloads(batch)
    sources = SourceTable()
    ctx = DecodeContext.of(datagrams, sources.exporters(datagrams.address))
    decode(ctx, np.arange(len(batch)), sources)
    return ctx


def _rows(tables: list[Columns], datagram: int) -> list[dict]:
    return [
        {k: v for k, v in row.items() if v is not None}
        for table in tables
        for owner, row in zip(
            table.datagram.tolist(), record_batch(table.columns).to_pylist(), strict=True
        )
        if owner == datagram
    ]


@settings(max_examples=300, deadline=None)
@given(st.lists(payloads, max_size=5))
def test_any_bytes_are_decoded_without_error_and_as_if_alone(batch):
    ctx = _run(batch)
    for i, payload in enumerate(batch):
        alone = _run([payload])
        assert alone.status[0] == ctx.status[i]
        assert alone.records[0] == ctx.records[i]
        assert _rows(alone.flows, 0) == _rows(ctx.flows, i)
        assert _rows(alone.counters, 0) == _rows(ctx.counters, i)
        for table in (*alone.flows, *alone.counters):
            record_batch(table.columns).validate(full=True)
        assert sum(map(len, alone.flows)) <= len(payload) / 32
        assert (alone.source[0] < 0) == (alone.status[0] == Status.MALFORMED_HEADER)


def test_the_worst_datagrams_take_bounded_time():
    """Largest datagrams of the smallest samples, records and stacks: rounds are limited."""
    room = 65000
    samples = datagram(*[unit(9, b"")] * (room // 8))
    records = datagram(flow(*[unit(9, b"")] * (room // 8)))
    tags = ethernet(0x0800, b"", *range(1, 2000))
    deep = b""
    for _ in range(40):
        deep = ipv4(4, deep)
    packets = datagram(*(flow(raw_header(p)) for p in (tags, ethernet(0x0800, deep)) * 5))
    path = datagram(flow(gateway("192.0.2.3", 1, 2, 3, [(2, [])] * (room // 8), [], 1)))
    for payload in (samples, records, packets, path):
        start = time.process_time()
        _run([payload] * 20)
        assert time.process_time() - start < 2
