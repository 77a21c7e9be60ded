"""sFlow version 5: what datagrams say becomes rows, and what is wrong with them is counted."""

from __future__ import annotations

import ipaddress
import struct
import tracemalloc

import numpy as np
import pytest

from appliance.batch import DatagramBatch
from appliance.columns import Columns, record_batch
from appliance.decode.context import DecodeContext, Status
from appliance.decode.sflow import decode
from appliance.decode.sflow.datagram import MAX_RECORDS, MAX_SAMPLES
from appliance.decode.sources import SourceTable
from appliance.schema import CANONICAL, ExportProtocol, FlowKind, SamplingSource
from tests.packet_builders import ethernet, ipv4, ipv6, tcp, udp
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

PACKET = ethernet(0x0800, ipv4(6, tcp(443, 50000)), 30)


def run(*payloads: bytes) -> tuple[DecodeContext, SourceTable]:
    batch = DatagramBatch.from_payloads(list(payloads))
    sources = SourceTable()
    ctx = DecodeContext.of(batch, sources.exporters(batch.address))
    decode(ctx, np.arange(len(batch)), sources)
    return ctx, sources


def rows(tables: list[Columns]) -> list[dict]:
    """All rows as dicts without nulls; addresses as text."""
    out = []
    for table in tables:
        batch = record_batch(table.columns)
        assert len(table) == len(table.source) == batch.num_rows
        for name, column in table.columns.items():
            assert column.type == CANONICAL.get(name, column.type)
            assert batch.column(name).null_count < batch.num_rows, f"{name} is null everywhere"
        for number, row in zip(table.datagram.tolist(), batch.to_pylist(), strict=True):
            plain = {k: v for k, v in row.items() if v is not None}
            for key, value in plain.items():
                if hasattr(value, "bytes"):
                    parsed = ipaddress.IPv6Address(value.bytes)
                    plain[key] = str(parsed.ipv4_mapped or parsed)
            out.append(plain | {"datagram": number})
    return out


def flows(*payloads: bytes) -> list[dict]:
    ctx, _ = run(*payloads)
    assert ctx.status.tolist() == [Status.DECODED] * len(payloads)
    return rows(ctx.flows)


def one_flow(*records: bytes) -> dict:
    (row,) = flows(datagram(flow(*records)))
    return row


def one_counter(*records: bytes) -> dict:
    ctx, _ = run(datagram(counter(*records)))
    assert ctx.status.tolist() == [Status.DECODED]
    (row,) = rows(ctx.counters)
    return row


# --- datagrams and samples ---


def test_a_flow_sample_gives_its_head_its_packet_and_what_queries_count():
    assert one_flow(raw_header(PACKET, frame_length=1518)) == {
        "datagram": 0,
        "agent": "192.0.2.1",
        "kind": FlowKind.FLOW_SAMPLE,
        "sequence": 1,
        "source_type": 0,
        "source_index": 5,
        "sampling_rate": 1000,
        "sampling_source": SamplingSource.HEADER,
        "sample_pool": 5000,
        "drops": 3,
        "in_if": 11,
        "out_if": 12,
        "out_if_format": 0,
        "record_formats": [1],
        "header_protocol": 1,
        "frame_length": 1518,
        "stripped": 4,
        "header_length": len(PACKET),
        "src_mac": 0x0A0000000001,
        "dst_mac": 0x020000000002,
        "ethertype": 0x8100,
        "vlan": 30,
        "ip_version": 4,
        "src_addr": "10.1.2.3",
        "dst_addr": "192.0.2.9",
        "tos": 0,
        "ip_len": 40,
        "ip_ttl": 64,
        "protocol": 6,
        "src_port": 443,
        "dst_port": 50000,
        "tcp_flags": 0x18,
        "bytes": 1518,
        "packets": 1,
    }


def test_samples_of_many_datagrams_come_in_order_of_arrival():
    payloads = [
        datagram(*(flow(raw_header(PACKET), sequence=10 * d + s) for s in range(n)))
        for d, n in enumerate([3, 0, 1, 5, 2])
    ]
    got = [(r["datagram"], r["sequence"]) for r in flows(*payloads)]
    assert got == [(d, 10 * d + s) for d, n in enumerate([3, 0, 1, 5, 2]) for s in range(n)]


def test_sequence_numbers_and_domains_are_kept_for_the_ledger():
    ctx, sources = run(
        datagram(flow(raw_header(PACKET)), sub_agent=7, sequence=41),
        datagram(flow(), flow(), agent="2001:db8::7", sub_agent=8, sequence=2**32 - 1),
        datagram(counter(), sub_agent=7, sequence=42),
    )
    assert ctx.sequence.tolist() == [41, 2**32 - 1, 42]
    assert ctx.sequence_units.tolist() == [1, 1, 1]
    assert ctx.records.tolist() == [1, 2, 0]
    assert ctx.export_ns.tolist() == [0, 0, 0]
    assert [sources.sources[s].domain for s in ctx.source] == [7, 8, 7]
    assert {s.protocol for s in sources.sources} == {ExportProtocol.SFLOW_V5}
    assert ctx.flows[0].source.tolist() == ctx.source[[0, 1, 1]].tolist()


def test_an_ipv6_agent_is_shown_as_such():
    got = flows(datagram(flow(), agent="2001:db8::7"), datagram(flow()))
    assert [r["agent"] for r in got] == ["2001:db8::7", "192.0.2.1"]


def test_compact_expanded_and_discard_samples_share_one_table():
    got = flows(
        datagram(
            expanded_flow(raw_header(PACKET), source=(1, 70000), input_=(0, 3), output=(2, 6)),
            discard(raw_header(PACKET), unit(1037, words(4) + opaque(b"deny") + words(1))),
            flow(raw_header(PACKET), source=2 << 24 | 9, output=1 << 31 | 4, input_=0x3FFFFFFF),
        )
    )
    expanded, discarded, compact = got
    assert (expanded["source_type"], expanded["source_index"]) == (1, 70000)
    assert (expanded["in_if"], expanded["in_if_format"]) == (3, 0)
    assert (expanded["out_if"], expanded["out_if_format"]) == (6, 2)
    assert discarded["kind"] == FlowKind.DISCARD_SAMPLE
    assert (discarded["drops"], discarded["discard_reason"]) == (9, 256)
    assert (discarded["acl_name"], discarded["src_port"]) == ("deny", 443)
    assert (compact["source_type"], compact["source_index"]) == (2, 9)
    assert (compact["out_if"], compact["out_if_format"]) == (4, 2)
    assert compact["in_if"] == 0x3FFFFFFF
    assert "in_if_format" not in compact
    assert [r["kind"] for r in (expanded, compact)] == [FlowKind.FLOW_SAMPLE] * 2


def test_discards_are_no_traffic_and_have_no_sampling_rate():
    (row,) = flows(datagram(discard(raw_header(PACKET))))
    assert row["frame_length"] == len(PACKET) + 4
    assert not {"bytes", "packets", "sampling_rate", "sampling_source"} & row.keys()


def test_a_sampling_rate_of_zero_is_unknown_not_one():
    got = flows(datagram(flow(rate=0), flow(rate=1)))
    assert [r.get("sampling_rate") for r in got] == [None, 1]
    unknown, header = SamplingSource.UNKNOWN, SamplingSource.HEADER
    assert [r["sampling_source"] for r in got] == [unknown, header]


def test_samples_of_other_enterprises_are_passed_over():
    strange = unit(1, bytes(40), enterprise=4300)
    got = flows(datagram(strange, flow(sequence=2), unit(77, b""), flow(sequence=3)))
    assert [r["sequence"] for r in got] == [2, 3]


# --- flow records ---


def test_switch_router_and_gateway_records():
    row = one_flow(
        unit(1001, words(10, 1, 20, 2)),
        unit(1002, address("198.51.100.1") + words(24, 19)),
        gateway(
            "203.0.113.1",
            65000,
            64500,
            64499,
            [(2, [100, 200]), (1, [300, 301])],
            [65000 << 16 | 1, 65000 << 16 | 2],
            150,
        ),
    )
    assert row["record_formats"] == [1001, 1002, 1003]
    assert (row["ext_vlan_in"], row["ext_vlan_out"]) == (10, 20)
    assert (row["ext_priority_in"], row["ext_priority_out"]) == (1, 2)
    assert (row["next_hop"], row["src_mask"], row["dst_mask"]) == ("198.51.100.1", 24, 19)
    assert (row["bgp_next_hop"], row["router_as"]) == ("203.0.113.1", 65000)
    assert (row["src_as"], row["src_peer_as"]) == (64500, 64499)
    assert row["as_path"] == [100, 200, 300, 301]
    assert (row["dst_peer_as"], row["dst_as"]) == (100, 301)
    assert row["communities"] == [65000 << 16 | 1, 65000 << 16 | 2]
    assert row["local_pref"] == 150


def test_as_paths_of_all_shapes_do_not_mix():
    paths = [[], [(2, [1])], [(2, [2, 3]), (1, [4]), (2, [5, 6, 7])], [(2, [])], [(2, [8, 9])]]
    got = flows(
        datagram(*(flow(gateway("192.0.2.5", 1, 2, 3, p, [n], n)) for n, p in enumerate(paths)))
    )
    assert [r.get("as_path") for r in got] == [None, [1], [2, 3, 4, 5, 6, 7], None, [8, 9]]
    assert [r.get("dst_as") for r in got] == [None, 1, 7, None, 9]
    assert [(r["communities"], r["local_pref"]) for r in got] == [([n], n) for n in range(5)]


def test_names_urls_and_nat_records():
    row = one_flow(
        unit(1004, words(3) + opaque(b"alice") + words(3) + opaque("jürgen".encode())),
        unit(1005, words(1) + opaque(b"/index") + opaque(b"example.org")),
        unit(1007, address("192.0.2.77") + address("2001:db8::1")),
        unit(1020, words(1024, 70000)),
        unit(1012, words(2, 0x81000064, 0x810000C8)),
    )
    assert (row["src_user"], row["dst_user"]) == ("alice", "jürgen")
    assert (row["url"], row["url_host"], row["url_direction"]) == ("/index", "example.org", 1)
    assert (row["post_nat_src_addr"], row["post_nat_dst_addr"]) == ("192.0.2.77", "2001:db8::1")
    assert row["post_nat_src_port"] == 1024
    assert "post_nat_dst_port" not in row, "70000 is no port"
    assert row["vlan_stack"] == [0x81000064, 0x810000C8]


def test_text_that_is_not_utf8_spoils_only_itself():
    names = [b"ok", b"\xff\xfebad", "j\u00fcrgen \u20ac \U0001f600".encode(), b"\xe2\x82", b"\xac"]
    names += [b"\xed\xa0\x80", b"\xc0\x80", b""]
    got = flows(datagram(*(flow(unit(1038, opaque(name))) for name in names)))
    wanted = ["ok", "??bad", names[2].decode(), "??", "?", "???", "??", ""]
    assert [r["drop_function"] for r in got] == wanted


def test_mpls_records():
    row = one_flow(
        unit(1006, address("192.0.2.8") + words(1, 0x10140) + words(2, 0x20040, 0x30140)),
        unit(1008, opaque(b"lsp") + words(5, 6)),
        unit(1009, opaque(b"vc") + words(7, 8)),
        unit(1010, opaque(b"ftn") + words(9)),
        unit(1011, words(10)),
    )
    assert row["mpls_next_hop"] == "192.0.2.8"
    assert (row["mpls_in_stack"], row["mpls_out_stack"]) == ([0x10140], [0x20040, 0x30140])
    assert (row["mpls_tunnel_name"], row["mpls_tunnel_id"]) == ("lsp", 5)
    assert (row["mpls_vc_name"], row["mpls_vll_vc_id"]) == ("vc", 7)
    assert (row["mpls_ftn"], row["mpls_ftn_mask"], row["mpls_ldp_fec_mask"]) == ("ftn", 9, 10)


def test_sampled_ethernet_and_ip_records_stand_in_for_a_raw_header():
    macs = bytes.fromhex("0a0000000001") + bytes(2) + bytes.fromhex("0200000000ff") + bytes(2)
    packed = bytes.fromhex("0a0000000001") + bytes.fromhex("0200000000ff")
    four = words(60, 17) + ipaddress.ip_address("10.0.0.1").packed
    four += ipaddress.ip_address("10.0.0.2").packed + words(53, 54, 0, 8)
    six = words(80, 6) + ipaddress.ip_address("2001:db8::1").packed
    six += ipaddress.ip_address("2001:db8::2").packed + words(55, 56, 0x10, 9)
    got = flows(
        datagram(
            flow(unit(2, words(78) + macs + words(0x0800)), unit(3, four)),
            flow(unit(4, six)),
            flow(unit(2, words(99) + packed + words(0x86DD))),
            flow(raw_header(PACKET, frame_length=500), unit(2, words(78) + macs + words(0x0800))),
        )
    )
    assert [r.get("src_addr") for r in got] == ["10.0.0.1", "2001:db8::1", None, "10.1.2.3"]
    assert [r.get("ip_version") for r in got] == [4, 6, None, 4]
    assert [r.get("src_port") for r in got] == [53, 55, None, 443]
    assert [r.get("dst_mac") for r in got] == [0x0200000000FF, None, 0x0200000000FF, 0x020000000002]
    assert [r.get("ethertype") for r in got] == [0x0800, None, 0x86DD, 0x8100]
    assert [r["bytes"] for r in got] == [78, 80, 99, 500]


def test_a_sampled_ip_record_fills_in_only_what_it_says():
    four = words(60, 17) + ipaddress.ip_address("10.0.0.1").packed
    four += ipaddress.ip_address("10.0.0.2").packed + words(53, 54, 0, 8)
    arp = raw_header(ethernet(0x0806, bytes(28)))
    got = flows(datagram(flow(raw_header(PACKET)), flow(arp, unit(3, four))))
    assert [r["src_addr"] for r in got] == ["10.1.2.3", "10.0.0.1"]
    assert [r.get("ip_ttl") for r in got] == [64, None]


def test_packets_of_all_versions_in_one_batch_find_their_rows():
    packets = [PACKET, ethernet(0x86DD, ipv6(17, udp(1, 2))), ethernet(0x0806, bytes(28))]
    got = flows(
        datagram(*(flow(raw_header(p)) for p in packets), flow(unit(1001, words(1, 0, 2, 0))))
    )
    assert [r.get("src_port") for r in got] == [443, 1, None, None]
    assert [r.get("ext_vlan_out") for r in got] == [None, None, None, 2]
    assert [r.get("ipv6_flow_label") for r in got] == [None, 0, None, None]


def test_raw_ip_headers_need_no_ethernet():
    row = one_flow(raw_header(ipv6(6, tcp(7, 8)), protocol=12))
    assert (row["header_protocol"], row["ip_version"], row["src_port"]) == (12, 6, 7)


def test_of_two_records_of_one_format_the_first_is_shown():
    second = raw_header(ethernet(0x0800, ipv4(17, udp(1, 2))))
    got = flows(datagram(flow(raw_header(PACKET), second), flow(raw_header(PACKET))))
    assert [r["src_port"] for r in got] == [443, 443]
    assert got[0]["record_formats"] == [1, 1]


def test_records_of_unknown_formats_are_kept():
    row = one_flow(
        unit(1001, words(1, 0, 2, 0)),
        unit(3000, b"\xab\xcd\0\x01"),
        unit(5, bytes(1000), enterprise=4413),
        unit(3000, b"\xff" * 4),
    )
    assert dict(row["extra"]) == {"0.3000": "abcd0001", "4413.5": "00" * 256}
    assert row["record_formats"] == [1001, 3000, 4413 << 12 | 5, 3000]
    assert row["ext_vlan_in"] == 1


def test_only_rows_with_unknown_records_have_extra():
    got = flows(datagram(flow(), flow(unit(3000, b"")), flow()))
    assert ["extra" in r for r in got] == [False, True, False]
    assert dict(got[1]["extra"]) == {"0.3000": ""}


# --- counters ---


def test_interface_and_ethernet_counters_are_one_row():
    values = [4, 6, 10**10, 1, 3, 2**40, *range(20, 26), 2**41, *range(30, 36)]
    generic = struct.pack(">IIQIIQ6IQ6I", *values)
    row = one_counter(unit(1, generic), unit(2, words(*range(1, 14))))
    assert row["kind"] == FlowKind.COUNTER_SAMPLE
    assert (row["sequence"], row["source_type"], row["source_index"]) == (1, 0, 5)
    assert row["agent"] == "192.0.2.1"
    assert row["record_formats"] == [1, 2]
    assert (row["if_index"], row["if_type"], row["if_speed"]) == (4, 6, 10**10)
    assert (row["if_direction"], row["if_status"]) == (1, 3)
    assert (row["if_in_octets"], row["if_out_octets"]) == (2**40, 2**41)
    names = ("ucast", "mcast", "bcast", "discards", "errors")
    assert [row[f"if_in_{n}"] for n in names] == [20, 21, 22, 23, 24]
    assert row["if_in_unknown"] == 25
    assert [row[f"if_out_{n}"] for n in names] == [30, 31, 32, 33, 34]
    assert row["if_promiscuous"] == 35
    assert (row["dot3_alignment_errors"], row["dot3_symbol_errors"]) == (1, 13)


def test_host_counters_with_names_adapters_and_loads():
    uuid = bytes(range(16))
    macs = [bytes([2, 0, 0, 0, 0, n]) + bytes(2) for n in range(3)]
    adapters = words(2, 1, 2) + macs[0] + macs[1] + words(2, 1) + macs[2]
    row = one_counter(
        unit(2000, opaque(b"router7") + uuid + words(3, 2) + opaque(b"6.1")),
        unit(2001, adapters),
        unit(2003, struct.pack(">3f", 0.5, 1.5, 2.5) + words(*range(1, 15))),
        unit(2004, struct.pack(">7Q4I", *range(11))),
    )
    assert (row["host_name"], row["host_os_release"]) == ("router7", "6.1")
    assert row["adapter_if_index"] == [1, 1, 2]
    assert row["adapter_mac"] == [0x020000000000, 0x020000000001, 0x020000000002]
    assert [row[f"host_load_{n}m"] for n in (1, 5, 15)] == [0.5, 1.5, 2.5]
    assert row["host_contexts"] == 14
    assert "host_cpu_steal_ms" not in row, "a shorter, older form of the record"
    assert (row["host_mem_free"], row["host_swap_out"]) == (1, 10)


def test_counter_samples_of_different_kinds_keep_to_their_rows():
    ctx, _ = run(
        datagram(
            counter(unit(5, struct.pack(">IQ4I", 30, 2**33, 1, 2, 3, 4)), sequence=8),
            flow(raw_header(PACKET)),
            expanded_counter(unit(1001, struct.pack(">3I2Q", 100, 200, 300, 1, 2)), source=(1, 9)),
            counter(unit(9999, b"abcd")),
        )
    )
    vlan, processor, unknown = rows(ctx.counters)
    assert (vlan["vlan_id"], vlan["vlan_octets"], vlan["sequence"]) == (30, 2**33, 8)
    assert (processor["cpu_5m"], processor["memory_free"]) == (300, 2)
    assert (processor["source_type"], processor["source_index"]) == (1, 9)
    assert "cpu_5m" not in vlan
    assert dict(unknown["extra"]) == {"2.1807": "61626364"}
    assert len(rows(ctx.flows)) == 1
    assert ctx.records.tolist() == [1]


# --- what is wrong ---


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        words(5),
        words(5, 0, 1, 2, 3, 4, 0, 0),
        words(5, 3) + bytes(40),
        datagram(agent="2001:db8::1")[:39],
        datagram()[:27],
    ],
)
def test_a_datagram_without_a_whole_header_is_malformed_alone(payload):
    good = datagram(flow())
    ctx, _ = run(good, payload, good)
    assert ctx.status.tolist() == [Status.DECODED, Status.MALFORMED_HEADER, Status.DECODED]
    assert ctx.source[1] == -1
    assert ctx.sequence[1] == -1
    assert [r["datagram"] for r in rows(ctx.flows)] == [0, 2]
    (error,) = ctx.errors
    assert error.datagram == 1
    strange = len(payload) > 28 and payload[7] not in (1, 2)
    assert error.detail == (
        "no IPv4 or IPv6 agent address" if strange else "too short for its header"
    )


@pytest.mark.parametrize("count", [5, 2**32 - 1])
def test_more_declared_samples_than_there_are(count):
    ctx, _ = run(datagram(flow(raw_header(PACKET)), count=count))
    assert ctx.status.tolist() == [Status.MALFORMED_DATA]
    assert len(rows(ctx.flows)) == 1


def test_samples_beyond_the_declared_number_are_padding():
    ctx, _ = run(datagram(flow(), flow(), count=1), datagram(flow()) + bytes(100))
    assert ctx.status.tolist() == [Status.DECODED] * 2
    assert [r["datagram"] for r in rows(ctx.flows)] == [0, 1]


@pytest.mark.parametrize("length", [2**31 - 1, 2**32 - 4, 200])
def test_a_sample_longer_than_its_datagram_is_read_as_far_as_it_goes(length):
    ctx, _ = run(datagram(flow(sequence=1), flow(raw_header(PACKET), length=length), count=3))
    assert ctx.status.tolist() == [Status.MALFORMED_LENGTH]
    assert [e.detail for e in ctx.errors] == ["a sample is longer than what it is in"]
    assert [r.get("src_port") for r in rows(ctx.flows)] == [None, 443]


def test_a_sample_shorter_than_its_head_is_no_row():
    ctx, _ = run(datagram(unit(1, bytes(31)), unit(3, bytes(43)), unit(2, bytes(11)), flow()))
    assert ctx.status.tolist() == [Status.MALFORMED_DATA]
    assert len(rows(ctx.flows)) == 1
    assert not ctx.counters


def test_a_sample_length_that_is_too_short_cuts_the_packet_not_the_decoder():
    ctx, _ = run(datagram(flow(raw_header(PACKET), length=32 + 8 + 16 + 40), flow()))
    assert ctx.status[0] in (Status.MALFORMED_LENGTH, Status.MALFORMED_DATA)
    row = rows(ctx.flows)[0]
    assert (row["src_addr"], row.get("src_port")) == ("10.1.2.3", None)


def test_endless_empty_samples_end_at_the_limit():
    ctx, _ = run(datagram(*[unit(9, b"")] * (MAX_SAMPLES + 1)), datagram(flow()))
    assert ctx.status.tolist() == [Status.OVER_LIMIT, Status.DECODED]
    ctx, _ = run(datagram(*[unit(9, b"")] * MAX_SAMPLES))
    assert ctx.status.tolist() == [Status.DECODED]


def test_endless_empty_records_end_at_the_limit():
    ctx, _ = run(datagram(flow(*[unit(9, b"")] * (MAX_RECORDS + 1))))
    assert ctx.status.tolist() == [Status.OVER_LIMIT]
    assert len(rows(ctx.flows)[0]["record_formats"]) == MAX_RECORDS


def test_more_declared_records_than_there_are():
    ctx, _ = run(datagram(flow(raw_header(PACKET), count=10**6)))
    assert ctx.status.tolist() == [Status.MALFORMED_DATA]
    assert rows(ctx.flows)[0]["src_port"] == 443


@pytest.mark.parametrize("length", [0, 3, 2**31 - 1, 2**32 - 4])
def test_record_lengths_that_lie_cost_at_most_their_sample(length):
    ctx, _ = run(datagram(flow(raw_header(PACKET, length=length)), flow(raw_header(PACKET))))
    assert ctx.status[0] in (Status.MALFORMED_DATA, Status.MALFORMED_LENGTH)
    assert len(rows(ctx.flows)) == 2
    assert rows(ctx.flows)[1]["src_port"] == 443


@pytest.mark.parametrize(("header_length", "port"), [(65535, 443), (0, None), (2**32 - 1, 443)])
def test_header_lengths_that_lie_are_bounded_by_the_record(header_length, port):
    ctx, _ = run(datagram(flow(raw_header(PACKET, header_length=header_length)), flow()))
    lie = header_length > len(PACKET)
    assert ctx.status.tolist() == [Status.MALFORMED_DATA if lie else Status.DECODED]
    row = rows(ctx.flows)[0]
    assert row["header_length"] == header_length
    assert row.get("src_port") == port


def test_as_paths_and_communities_of_billions_cost_no_memory():
    head = address("192.0.2.5") + words(1, 2, 3)
    lies = [
        head + words(2**31),
        head + words(1, 2, 2**31),
        head + words(1, 2, 2**30, 7),
        head + words(0, 2**31),
        head + words(2, 2, 1, 7, 2, 2**30, 8),
        head + words(33) + words(2, 1, 9) * 33 + words(0, 150),
        head + words(1, 2, 1, 77) + words(2**32 - 1, 5),
    ]
    payload = datagram(*(flow(unit(1003, lie)) for lie in lies))
    run(payload)
    tracemalloc.start()
    ctx, _ = run(payload)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert ctx.status.tolist() == [Status.MALFORMED_DATA]
    got = rows(ctx.flows)
    assert [r["src_as"] for r in got] == [2] * 7
    assert [r.get("as_path") for r in got] == [None] * 6 + [[77]]
    assert all("communities" not in r for r in got)
    assert all("local_pref" not in r for r in got)


def test_strings_longer_than_their_record_are_null():
    ctx, _ = run(
        datagram(flow(unit(1005, words(1, 2**32 - 1) + b"abcd"), unit(1038, words(5) + b"abcd")))
    )
    assert ctx.status.tolist() == [Status.MALFORMED_DATA]
    assert [(e.offset, e.detail) for e in ctx.errors] == [
        (28 + 8 + 32 + 8, "a record is shorter than what it counts"),
        (28 + 8 + 32 + 8 + 12 + 8, "a record is shorter than what it counts"),
    ]
    (row,) = rows(ctx.flows)
    assert row["url_direction"] == 1
    assert not {"url", "url_host", "drop_function"} & row.keys()


def test_a_record_that_ends_before_its_last_fields_is_old_not_wrong():
    row = one_flow(unit(1001, words(10, 1)), unit(1004, words(3) + opaque(b"alice")))
    assert (row["ext_vlan_in"], row["src_user"]) == (10, "alice")
    assert not {"ext_vlan_out", "dst_user", "dst_user_charset"} & row.keys()


def test_an_address_of_no_known_type_ends_its_record():
    ctx, _ = run(
        datagram(flow(unit(1002, words(3, 1, 24, 24))), flow(unit(1001, words(1, 0, 2, 0))))
    )
    assert ctx.status.tolist() == [Status.MALFORMED_DATA]
    first, second = rows(ctx.flows)
    assert not {"next_hop", "src_mask"} & first.keys()
    assert second["ext_vlan_out"] == 2
    assert one_flow(unit(1002, address(None) + words(24, 25)))["dst_mask"] == 25


def test_nothing_to_decode_is_nothing():
    ctx, _ = run()
    assert not ctx.flows
    assert not ctx.counters
    ctx, _ = run(datagram())
    assert ctx.status.tolist() == [Status.DECODED]
