"""Packet headers: what each of many packets of one batch says, and what it cannot say."""

from __future__ import annotations

import ipaddress
import struct

import numpy as np
import pytest

from appliance.columns import Column, to_arrow
from appliance.decode.packet import decode_packets
from appliance.schema import CANONICAL, TunnelType
from tests.packet_builders import (
    ethernet,
    extension,
    geneve,
    gre,
    ipv4,
    ipv6,
    mpls,
    tcp,
    udp,
    vxlan,
)


def decode(*packets: bytes, protocol: int | list[int] = 1) -> list[dict]:
    """Decode ``packets`` as one batch; one dict each, without nulls, addresses as text."""
    length = np.array([len(p) for p in packets], np.int64)
    buffer = np.frombuffer(b"".join(packets) or b"\0", np.uint8)
    offset = np.cumsum(length) - length
    kinds = np.broadcast_to(np.asarray(protocol), len(packets))
    columns = decode_packets(buffer, offset, length, kinds)
    rows: list[dict] = [{} for _ in packets]
    for name, column in columns.items():
        assert isinstance(column, Column)
        assert column.type == CANONICAL[name]
        array = to_arrow(column)
        assert array.type == column.type
        assert len(array) == len(packets)
        assert array.null_count < len(packets), f"{name} is null everywhere"
        for row, value in zip(rows, array.to_pylist(), strict=True):
            if value is not None:
                row[name] = text(value.bytes) if name.endswith("addr") else value
    return rows


def text(address: bytes) -> str:
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)


def test_a_plain_tcp_packet_gives_all_of_its_fields():
    packet = ethernet(0x0800, ipv4(6, tcp(443, 50000, 0x112, b"x" * 100), tos=8, ttl=63))
    assert decode(packet) == [
        {
            "src_mac": 0x0A0000000001,
            "dst_mac": 0x020000000002,
            "ethertype": 0x0800,
            "ip_version": 4,
            "src_addr": "10.1.2.3",
            "dst_addr": "192.0.2.9",
            "tos": 8,
            "ip_len": 140,
            "ip_ttl": 63,
            "protocol": 6,
            "src_port": 443,
            "dst_port": 50000,
            "tcp_flags": 0x112,
        }
    ]


def test_an_ipv6_packet_gives_traffic_class_and_flow_label():
    packet = ethernet(0x86DD, ipv6(17, udp(53, 999), traffic_class=0xB8, flow_label=0x54321))
    (row,) = decode(packet)
    assert row["ip_version"] == 6
    assert (row["src_addr"], row["dst_addr"]) == ("2001:db8::1", "2001:db8::2")
    assert (row["tos"], row["ipv6_flow_label"]) == (0xB8, 0x54321)
    assert (row["ip_ttl"], row["ip_len"]) == (60, 48)
    assert (row["protocol"], row["src_port"], row["dst_port"]) == (17, 53, 999)


def test_packets_of_all_kinds_in_one_batch_do_not_mix():
    packets = [
        ethernet(0x0800, ipv4(6, tcp(1, 2))),
        ethernet(0x86DD, ipv6(17, udp(3, 4))),
        ethernet(0x0806, bytes(28)),
        ethernet(0x0800, ipv4(1, b"\x08\x01" + bytes(6)), 7),
        ethernet(0x8847, mpls([16, 17], ipv4(17, udp(5, 6)))),
    ]
    rows = decode(*packets)
    assert [r.get("src_port") for r in rows] == [1, 3, None, None, 5]
    assert [r.get("ip_version") for r in rows] == [4, 6, None, 4, 4]
    assert [r.get("tcp_flags") for r in rows] == [0x18, None, None, None, None]
    assert (rows[3]["icmp_type"], rows[3]["icmp_code"], rows[3]["vlan"]) == (8, 1, 7)
    assert rows[4]["mpls_labels"] == [16, 17]
    assert "mpls_labels" not in rows[0]
    assert rows == [row for p in packets for row in decode(p)]


@pytest.mark.parametrize("tpid", [0x8100, 0x88A8, 0x9100])
def test_the_outermost_vlan_is_vlan_and_the_next_one_inner_vlan(tpid):
    packet = ethernet(0x0800, ipv4(6, tcp()), 0x6064, 200, 300, tpid=tpid)
    (row,) = decode(packet)
    assert (row["vlan"], row["inner_vlan"], row["ethertype"]) == (0x064, 200, tpid)
    assert row["dst_port"] == 50000


def test_raw_ip_and_mpls_need_no_ethernet_header():
    four, six = ipv4(6, tcp(1, 2)), ipv6(6, tcp(3, 4))
    rows = decode(four, six, mpls([100], six), four, protocol=[11, 12, 13, 99])
    assert [r.get("src_port") for r in rows] == [1, 3, 3, None]
    assert "src_mac" not in rows[0]
    assert rows[2]["mpls_labels"] == [100]
    assert rows[3] == {}


@pytest.mark.parametrize(
    "head",
    [b"\x00\x21", b"\xff\x03\x00\x21", b"\x21", b"\x0f\x00\x08\x00"],
    ids=["plain", "framed", "compressed", "cisco"],
)
def test_ppp_and_hdlc_frames_are_looked_through(head):
    (row,) = decode(head + ipv4(17, udp(7, 8)), protocol=7)
    assert (row["src_port"], row["dst_port"]) == (7, 8)


def test_pppoe_is_looked_through():
    packet = ethernet(0x8864, b"\x11\x00\x00\x01\x00\x20" + b"\x00\x57" + ipv6(6, tcp(9, 10)))
    assert decode(packet)[0]["src_port"] == 9


def test_of_fabricpath_frames_the_hosts_addresses_are_shown():
    inner = ethernet(0x0800, ipv4(6, tcp(1, 2)), 30)
    (row,) = decode(bytes(12) + b"\x89\x03" + b"\x04\x20" + inner)
    assert (row["src_mac"], row["ethertype"], row["vlan"]) == (0x0A0000000001, 0x8100, 30)
    assert row["src_port"] == 1


def test_an_802_3_frame_is_read_if_snap_says_what_it_holds():
    snap = ethernet(100, b"\xaa\xaa\x03\0\0\0\x08\0" + ipv4(6, tcp(1, 2)))
    spanning_tree = ethernet(38, b"\x42\x42\x03" + bytes(35))
    rows = decode(snap, spanning_tree)
    assert (rows[0]["ethertype"], rows[0]["src_port"]) == (0x0800, 1)
    assert set(rows[1]) == {"src_mac", "dst_mac"}


def test_a_wireless_data_frame_gives_addresses_in_ethernets_order():
    bssid, station, far = (bytes([2, 0, 0, 0, 0, i]) for i in (1, 2, 3))
    llc = b"\xaa\xaa\x03\0\0\0\x08\0" + ipv4(6, tcp(1, 2))
    to_ds = b"\x08\x01\0\0" + bssid + station + far + bytes(2) + llc
    from_ds = b"\x88\x02\0\0" + station + bssid + far + bytes(2) + bytes(2) + llc
    bridged = b"\x08\x03\0\0" + bssid + bssid + far + bytes(2) + station + llc
    rows = decode(to_ds, from_ds, bridged, bridged[:29], protocol=15)
    assert (rows[0]["src_mac"], rows[0]["dst_mac"]) == (0x020000000002, 0x020000000003)
    assert (rows[1]["src_mac"], rows[1]["dst_mac"]) == (0x020000000003, 0x020000000002)
    assert (rows[2]["src_mac"], rows[2]["dst_mac"]) == (0x020000000002, 0x020000000003)
    assert [r.get("src_port") for r in rows] == [1, 1, 1, None]
    assert rows[3] == {}, "the fourth address was not captured"


@pytest.mark.parametrize("control", [b"", bytes(4), b"\0\0\0\x2a"])
@pytest.mark.parametrize("first", ["02", "00", "46", "62"])
def test_ethernet_over_mpls_is_told_from_ip_with_and_without_control_word(control, first):
    inner = bytes.fromhex(first) + ethernet(0x0800, ipv4(6, tcp(11, 12)), 55)[1:]
    (row,) = decode(ethernet(0x8847, mpls([900, 901], control + inner)))
    assert (row["src_port"], row["dst_port"]) == (11, 12)
    assert row["mpls_labels"] == [900, 901]
    assert (row["tunnel_type"], row["tunnel_id"]) == (TunnelType.EOMPLS, 901)
    assert row["vlan"] == 55
    assert row["dst_mac"] == 0x020000000002


def test_ipv6_extension_headers_are_skipped():
    chain = extension(43) + extension(60, b"\x00" * 14) + extension(51)
    # authentication counts words of 4 bytes less 2
    chain += bytes([6, 4]) + bytes(22) + tcp(21, 22)
    (row,) = decode(ethernet(0x86DD, ipv6(0, chain)))
    assert (row["protocol"], row["src_port"], row["dst_port"]) == (6, 21, 22)


def test_ipv4_authentication_header_is_skipped():
    (row,) = decode(ipv4(51, bytes([17, 4]) + bytes(22) + udp(1, 2)), protocol=11)
    assert (row["protocol"], row["src_port"]) == (17, 1)


def test_only_first_fragments_have_ports():
    first = bytes([17, 255]) + struct.pack(">HI", 1, 99) + udp(1, 2)
    later = bytes([17, 0]) + struct.pack(">HI", 8 << 3, 99) + udp(1, 2)
    rows = decode(
        ethernet(0x86DD, ipv6(44, first)),
        ethernet(0x86DD, ipv6(44, later)),
        ethernet(0x0800, ipv4(17, udp(1, 2), fragment=0x2000)),
        ethernet(0x0800, ipv4(17, udp(1, 2), fragment=0x2005)),
    )
    assert [r["protocol"] for r in rows] == [17] * 4
    assert [r.get("src_port") for r in rows] == [1, None, 1, None]


def test_ipv4_options_are_skipped():
    (row,) = decode(ethernet(0x0800, ipv4(6, tcp(1, 2), options=bytes(12))))
    assert (row["src_port"], row["ip_len"]) == (1, 52)


INNER = ipv4(6, tcp(80, 81), "172.16.0.1", "172.16.0.2")


@pytest.mark.parametrize(
    ("packet", "kind", "number"),
    [
        (ipv4(47, gre(0x0800, INNER)), TunnelType.GRE, None),
        (ipv4(47, gre(0x0800, INNER, key=77)), TunnelType.GRE, 77),
        (ipv4(47, gre(0x0800, INNER, key=77, checksum=True)), TunnelType.GRE, 77),
        (ipv4(47, gre(0x6558, ethernet(0x0800, INNER, 9), key=5)), TunnelType.GRE, 5),
        (ipv4(4, INNER), TunnelType.IP_IN_IP, None),
        (ipv4(17, vxlan(4096, ethernet(0x0800, INNER))), TunnelType.VXLAN, 4096),
        (ipv4(17, geneve(12, 0x6558, ethernet(0x0800, INNER), bytes(8))), TunnelType.GENEVE, 12),
        (ipv4(17, geneve(12, 0x0800, INNER)), TunnelType.GENEVE, 12),
    ],
)
def test_tunnels_give_the_inner_addresses_and_keep_the_outer_ones(packet, kind, number):
    (row,) = decode(ethernet(0x0800, packet))
    assert (row["src_addr"], row["inner_src_addr"]) == ("10.1.2.3", "172.16.0.1")
    assert (row["dst_addr"], row["inner_dst_addr"]) == ("192.0.2.9", "172.16.0.2")
    assert (row["inner_protocol"], row["inner_src_port"], row["inner_dst_port"]) == (6, 80, 81)
    assert (row["tunnel_type"], row.get("tunnel_id")) == (kind, number)
    assert "vlan" not in row


def test_srv6_with_and_without_ip_inside():
    segments = bytes([4, 1, 1, 0, 0, 0]) + bytes(32)
    header = bytes([41, 4]) + segments
    tunnel = ipv6(43, header + ipv6(6, tcp(5, 6), "2001:db8:f::1", "2001:db8:f::2"))
    plain = ipv6(43, bytes([6, 4]) + segments + tcp(7, 8))
    rows = decode(ethernet(0x86DD, tunnel), ethernet(0x86DD, plain))
    assert rows[0]["tunnel_type"] == TunnelType.SRV6
    assert (rows[0]["inner_src_addr"], rows[0]["inner_dst_port"]) == ("2001:db8:f::1", 6)
    assert (rows[1]["protocol"], rows[1]["src_port"]) == (6, 7)
    assert "tunnel_type" not in rows[1]


def test_of_tunnels_in_tunnels_the_innermost_is_shown_and_the_outermost_named():
    deep = ipv4(47, gre(0x86DD, ipv6(4, INNER)), "10.9.9.9", "10.9.9.8")
    (row,) = decode(ethernet(0x0800, ipv4(17, vxlan(3, ethernet(0x0800, deep)))))
    assert row["inner_src_addr"] == "172.16.0.1"
    assert (row["tunnel_type"], row["tunnel_id"]) == (TunnelType.VXLAN, 3)


def test_ports_of_a_tunnel_in_a_tunnel_are_not_those_of_the_packet_inside():
    inside = ethernet(0x0800, ipv4(1, bytes(8), "172.16.0.1", "172.16.0.2"))
    (row,) = decode(ipv4(47, gre(0x0800, ipv4(17, vxlan(3, inside)))), protocol=11)
    assert (row["inner_src_addr"], row["inner_protocol"]) == ("172.16.0.1", 1)
    assert "inner_src_port" not in row


def test_endless_nesting_ends():
    packet = INNER
    for _ in range(60):
        packet = ipv4(4, packet)
    (row,) = decode(packet, protocol=11)
    assert row["inner_protocol"] == 4


def test_a_port_alone_makes_no_tunnel():
    (row,) = decode(ethernet(0x0800, ipv4(17, udp(1000, 4789, bytes(60)))))
    assert row["dst_port"] == 4789
    assert "tunnel_type" not in row


def test_every_truncation_gives_what_was_captured_and_no_more():
    packet = ethernet(0x8847, mpls([16], ipv4(17, vxlan(5, ethernet(0x86DD, ipv6(6, tcp()), 7)))))
    whole = decode(packet)[0]
    rows = decode(*[packet[:n] for n in range(len(packet) + 1)])
    for row in rows:
        assert row.items() <= whole.items()
    counts = [len(row) for row in rows]
    assert counts == sorted(counts)
    assert rows[0] == {}
    assert "src_addr" not in rows[14 + 4 + 19]
    assert "src_addr" in rows[14 + 4 + 20]
    # above, other packets lay behind each one; here nothing does
    assert rows == [decode(packet[:n])[0] for n in range(len(packet) + 1)]


def test_header_lengths_that_lie_cost_only_the_ports():
    rows = decode(
        ethernet(0x0800, ipv4(6, tcp(), ihl=0)),
        ethernet(0x0800, ipv4(6, tcp(), ihl=15)),
        ethernet(0x0800, ipv4(6, tcp(), length=0)),
        ethernet(0x0800, ipv4(6, tcp(), version=7)),
        ethernet(0x0800, ipv4(6, tcp(), length=3)),
    )
    assert [r.get("src_addr") for r in rows] == ["10.1.2.3"] * 3 + [None, "10.1.2.3"]
    assert [r.get("src_port") for r in rows] == [None, None, 443, None, None]


def test_endless_tags_labels_and_extensions_end():
    tags = ethernet(0x0800, ipv4(6, tcp()), *range(1, 31))
    labels = ethernet(0x8847, mpls(list(range(100, 130)), b"", bottom=False))
    chain = ethernet(0x86DD, ipv6(60, b"".join(extension(60) for _ in range(30))))
    rows = decode(tags, labels, chain)
    assert (rows[0]["vlan"], rows[0]["inner_vlan"]) == (1, 2)
    assert "src_addr" not in rows[0]
    assert rows[1]["mpls_labels"] == list(range(100, 116))
    assert rows[2]["src_addr"] == "2001:db8::1"
    assert "src_port" not in rows[2]


def test_ethernet_padding_is_not_read_as_a_transport_header():
    packet = ethernet(0x0800, ipv4(6, b"", length=20) + bytes(26))
    assert "src_port" not in decode(packet)[0]


def test_no_packets_give_no_columns():
    assert decode() == []
    assert decode(b"", b"\x01") == [{}, {}]
