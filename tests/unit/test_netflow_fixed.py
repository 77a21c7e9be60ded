"""NetFlow v1, v5 and v7: values, times, sampling, lying counts."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

import numpy as np
import pytest

from appliance.batch import DatagramBatch
from appliance.columns import record_batch
from appliance.decode.context import DecodeContext, Status
from appliance.decode.netflow import fixed
from appliance.decode.sources import SourceTable
from appliance.schema import ExportProtocol, SamplingSource

EXPORT_SECONDS = 1_700_000_000
UPTIME = 500_000


def octets(text: str) -> bytes:
    return ipaddress.IPv4Address(text).packed


def text(value: Any) -> str:
    mapped = ipaddress.IPv6Address(value.bytes).ipv4_mapped
    assert mapped is not None
    return str(mapped)


def flow(**changes: Any) -> dict[str, Any]:
    return {
        "src": "10.0.0.1",
        "dst": "192.0.2.7",
        "hop": "198.51.100.3",
        "input": 3,
        "output": 65535,
        "packets": 4_000_000_000,
        "octets": 4_294_967_295,
        "first": UPTIME - 2000,
        "last": UPTIME - 1000,
        "sport": 443,
        "dport": 51234,
        "flags": 0x1B,
        "protocol": 6,
        "tos": 0xB8,
        "src_as": 64512,
        "dst_as": 65535,
        "masks": (24, 17),
    } | changes


def head(f: dict[str, Any]) -> bytes:
    return (
        octets(f["src"])
        + octets(f["dst"])
        + octets(f["hop"])
        + struct.pack(
            ">HHIIIIHH",
            f["input"],
            f["output"],
            f["packets"],
            f["octets"],
            f["first"],
            f["last"],
            f["sport"],
            f["dport"],
        )
    )


def v1(*flows: dict[str, Any], record: int = 48, count: int | None = None) -> bytes:
    body = b"".join(
        (head(f) + struct.pack(">HBBB", 0, f["protocol"], f["tos"], f["flags"])).ljust(
            record, b"\0"
        )
        for f in flows
    )
    return (
        struct.pack(
            ">HHIII", 1, len(flows) if count is None else count, UPTIME, EXPORT_SECONDS, 250
        )
        + body
    )


def v5_tail(f: dict[str, Any]) -> bytes:
    return struct.pack(
        ">BBBBHHBBH",
        0,
        f["flags"],
        f["protocol"],
        f["tos"],
        f["src_as"],
        f["dst_as"],
        *f["masks"],
        0,
    )


def v5(
    *flows: dict[str, Any],
    count: int | None = None,
    uptime: int = UPTIME,
    sequence: int = 0,
    engine: tuple[int, int] = (0, 0),
    sampling: int = 0,
) -> bytes:
    return struct.pack(
        ">HHIIIIBBH",
        5,
        len(flows) if count is None else count,
        uptime,
        EXPORT_SECONDS,
        250,
        sequence,
        *engine,
        sampling,
    ) + b"".join(head(f) + v5_tail(f) for f in flows)


def v7(*flows: dict[str, Any], router: str = "203.0.113.1", sequence: int = 0) -> bytes:
    return struct.pack(
        ">HHIIIII", 7, len(flows), UPTIME, EXPORT_SECONDS, 250, sequence, 0
    ) + b"".join(head(f) + v5_tail(f) + octets(router) for f in flows)


DECODERS = {1: fixed.decode_v1, 5: fixed.decode_v5, 7: fixed.decode_v7}


def decode(*payloads: bytes) -> tuple[DecodeContext, list[dict[str, Any]], SourceTable]:
    """Decode payloads of one version; the rows, as dictionaries with their datagram's number."""
    batch = DatagramBatch.from_payloads(list(payloads))
    sources = SourceTable()
    ctx = DecodeContext.of(batch, sources.exporters(batch.address))
    version = struct.unpack_from(">H", payloads[0])[0]
    DECODERS[version](ctx, np.arange(len(payloads)), sources)
    rows = [
        {"datagram": int(datagram), **row}
        for part in ctx.flows
        for datagram, row in zip(part.datagram, record_batch(part.columns).to_pylist(), strict=True)
    ]
    return ctx, rows, sources


EXPECTED = {
    "in_if": 3,
    "out_if": 65535,
    "packets": 4_000_000_000,
    "bytes": 4_294_967_295,
    "src_port": 443,
    "dst_port": 51234,
    "tcp_flags": 0x1B,
    "protocol": 6,
    "tos": 0xB8,
    "start_uptime_ms": UPTIME - 2000,
    "end_uptime_ms": UPTIME - 1000,
    "start_ns": EXPORT_SECONDS * 10**9 + 250 - 2 * 10**9,
    "end_ns": EXPORT_SECONDS * 10**9 + 250 - 10**9,
}
AS_AND_MASKS = {"src_as": 64512, "dst_as": 65535, "src_mask": 24, "dst_mask": 17}


@pytest.mark.parametrize(
    ("payload", "more"),
    [
        pytest.param(v1(flow()), {}, id="v1 of 48 octets"),
        pytest.param(v1(flow(), record=52), {}, id="v1 of 52 octets"),
        pytest.param(v5(flow()), AS_AND_MASKS, id="v5"),
        pytest.param(v7(flow()), AS_AND_MASKS, id="v7"),
    ],
)
def test_every_field_of_a_record_reaches_its_column(payload: bytes, more: dict[str, Any]) -> None:
    ctx, (row,), _ = decode(payload)
    assert {name: row[name] for name in EXPECTED | more} == EXPECTED | more
    assert [text(row[name]) for name in ("src_addr", "dst_addr", "next_hop")] == [
        "10.0.0.1",
        "192.0.2.7",
        "198.51.100.3",
    ]
    assert ctx.status.tolist() == [Status.DECODED]
    assert ctx.export_ns.tolist() == [EXPORT_SECONDS * 10**9 + 250]


def test_v7_keeps_the_router_that_the_short_cut_bypassed() -> None:
    _, (row,), _ = decode(v7(flow(), router="203.0.113.9"))
    assert text(row["router_sc"]) == "203.0.113.9"


def test_datagrams_of_different_size_keep_their_own_records() -> None:
    ctx, rows, _ = decode(
        v5(flow(sport=1), flow(sport=2)), v5(), v5(flow(sport=3)), v5(*[flow(sport=4)] * 30)
    )
    assert [r["datagram"] for r in rows] == [0, 0, 2] + [3] * 30
    assert [r["src_port"] for r in rows] == [1, 2, 3] + [4] * 30
    assert ctx.records.tolist() == [2, 0, 1, 30]


def test_records_beyond_one_block_keep_their_order_and_their_values() -> None:
    count = fixed.BLOCK // 30 + 20
    payloads = [
        v5(*[flow(packets=30 * i + k, src=f"10.{i >> 8}.{i & 255}.{k}") for k in range(30)])
        for i in range(count)
    ]
    batch = DatagramBatch.from_payloads(payloads)
    sources = SourceTable()
    ctx = DecodeContext.of(batch, sources.exporters(batch.address))
    fixed.decode_v5(ctx, np.arange(count), sources)
    (rows,) = ctx.flows
    assert rows.columns["packets"].values.tolist() == list(range(30 * count))
    i, k = np.divmod(np.arange(30 * count), 30)
    expected = np.stack([np.full(30 * count, 10), i >> 8, i & 255, k], axis=1)
    assert np.array_equal(rows.columns["src_addr"].values[:, 12:], expected)


def test_v1_record_sizes_are_told_apart_within_one_batch() -> None:
    ports = [flow(sport=port) for port in range(12)]
    ctx, rows, _ = decode(v1(*ports), v1(*ports, record=52), v1(*ports[:1], record=52))
    assert sorted((r["datagram"], r["src_port"]) for r in rows) == [
        *((0, port) for port in range(12)),
        *((1, port) for port in range(12)),
        (2, 0),
    ]
    assert ctx.status.tolist() == [Status.DECODED] * 3


def test_v1_with_a_lying_count_still_finds_its_record_size() -> None:
    ctx, rows, _ = decode(
        v1(flow(sport=7), flow(sport=8), record=52, count=9), v1(flow(sport=9), count=9)
    )
    assert sorted(r["src_port"] for r in rows) == [7, 8, 9]
    assert ctx.status.tolist() == [Status.MALFORMED_LENGTH] * 2


@pytest.mark.parametrize("build", [v5, v1])
def test_a_count_beyond_the_datagram_yields_its_whole_records_and_an_error(build: Any) -> None:
    payload = build(flow(), flow(), count=65535)
    ctx, rows, _ = decode(payload, payload[:-1], build(flow()))
    assert ctx.records.tolist() == [2, 1, 1]
    assert len(rows) == 4
    assert ctx.status.tolist() == [Status.MALFORMED_LENGTH] * 2 + [Status.DECODED]
    assert [e.offset for e in ctx.errors] == [len(payload), len(payload) - 48]
    # what the exporter's next number will be is not known
    assert ctx.sequence_units.tolist() == ([-1, -1, 1] if build is v5 else [-1] * 3)


def test_a_count_below_the_datagram_yields_what_it_claims_and_an_error() -> None:
    ctx, rows, _ = decode(v5(flow(), flow(), count=1))
    assert len(rows) == 1
    assert ctx.status.tolist() == [Status.MALFORMED_LENGTH]


def test_padding_after_the_last_record_is_not_an_error() -> None:
    ctx, rows, _ = decode(v5(flow()) + bytes(6))
    assert len(rows) == 1
    assert ctx.status.tolist() == [Status.DECODED]
    assert ctx.sequence_units.tolist() == [1]


@pytest.mark.parametrize("payload", [v1(), v5(), v7()])
def test_a_datagram_cut_within_its_header_is_malformed_and_has_no_source(payload: bytes) -> None:
    for size in range(2, len(payload)):
        ctx, rows, _ = decode(payload[:size])
        assert not rows
        assert ctx.status.tolist() == [Status.MALFORMED_HEADER]
        assert ctx.source.tolist() == [-1]


def test_times_before_the_uptime_wrapped_stay_near_the_export() -> None:
    _, (row,), _ = decode(v5(flow(first=2**32 - 3000, last=2**32 - 2000), uptime=5000))
    export = EXPORT_SECONDS * 10**9 + 250
    assert (row["start_ns"], row["end_ns"]) == (export - 8 * 10**9, export - 7 * 10**9)
    assert row["uptime_lt_switched"] is True


def test_a_record_switched_after_its_export_is_marked_and_its_neighbour_is_not() -> None:
    _, rows, _ = decode(v5(flow(), flow(last=UPTIME + 10)))
    assert [r["uptime_lt_switched"] for r in rows] == [None, True]
    assert rows[1]["end_ns"] == EXPORT_SECONDS * 10**9 + 250 + 10 * 10**6


def test_extreme_header_times_raise_nothing() -> None:
    payload = bytearray(v5(flow(first=0, last=2**32 - 1)))
    payload[4:16] = b"\xff" * 12
    ctx, rows, _ = decode(bytes(payload))
    assert len(rows) == 1
    assert ctx.export_ns.tolist() == [(2**32 - 1) * 10**9 + 2**32 - 1]


def test_v5_sampling_is_split_into_mode_and_interval() -> None:
    _, (row,), _ = decode(v5(flow(), sampling=0x4064))
    assert (row["sampling_mode"], row["sampling_interval"]) == (1, 100)
    assert (row["sampling_rate"], row["sampling_source"]) == (100, SamplingSource.HEADER)


def test_v5_interval_without_a_mode_is_a_sampling_rate() -> None:
    _, (row,), _ = decode(v5(flow(), sampling=1000))
    assert (row["sampling_mode"], row["sampling_rate"]) == (0, 1000)


@pytest.mark.parametrize("sampling", [0, 1, 0x4000])
def test_v5_without_an_interval_claims_no_sampling_rate(sampling: int) -> None:
    _, (row,), _ = decode(v5(flow(), sampling=sampling))
    assert "sampling_rate" not in row
    assert "sampling_source" not in row


def test_v5_sampling_rates_of_one_batch_do_not_mix() -> None:
    _, rows, _ = decode(v5(flow(), flow(), sampling=0x8032), v5(flow()), v5(flow(), sampling=7))
    assert [r["sampling_rate"] for r in rows] == [50, 50, None, 7]
    assert [r["sampling_source"] for r in rows] == [3, 3, None, 3]


def test_the_engine_is_the_observation_domain_of_v5() -> None:
    ctx, rows, sources = decode(v5(flow(), engine=(1, 2)), v5(flow()), v5(flow(), engine=(1, 2)))
    found = [(sources.sources[s].protocol, sources.sources[s].domain) for s in ctx.source]
    assert found == [
        (ExportProtocol.NETFLOW_V5, 0x0102),
        (ExportProtocol.NETFLOW_V5, 0),
        (ExportProtocol.NETFLOW_V5, 0x0102),
    ]
    assert [(r["engine_type"], r["engine_id"]) for r in rows] == [(1, 2), (0, 0), (1, 2)]


def test_v5_and_v7_number_their_flows_and_v1_does_not() -> None:
    for build in (v5, v7):
        ctx, _, _ = decode(build(flow(), flow(), sequence=4294967295), build(sequence=1))
        assert ctx.sequence.tolist() == [4294967295, 1]
        assert ctx.sequence_units.tolist() == [2, 0]
    ctx, _, _ = decode(v1(flow()))
    assert ctx.sequence.tolist() == [-1]
