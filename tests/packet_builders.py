"""Packets for the tests of the packet decoder, built from the standards, layer by layer."""

from __future__ import annotations

import ipaddress
import struct

DST_MAC = bytes.fromhex("020000000002")
SRC_MAC = bytes.fromhex("0a0000000001")


def ethernet(ethertype: int, payload: bytes, *vlans: int, tpid: int = 0x8100) -> bytes:
    tags = b"".join(struct.pack(">HH", tpid, vlan) for vlan in vlans)
    return DST_MAC + SRC_MAC + tags + struct.pack(">H", ethertype) + payload


def ipv4(
    protocol: int,
    payload: bytes,
    src: str = "10.1.2.3",
    dst: str = "192.0.2.9",
    *,
    tos: int = 0,
    ttl: int = 64,
    version: int = 4,
    ihl: int | None = None,
    length: int | None = None,
    fragment: int = 0,
    options: bytes = b"",
) -> bytes:
    ihl = 5 + len(options) // 4 if ihl is None else ihl
    length = 20 + len(options) + len(payload) if length is None else length
    addresses = ipaddress.IPv4Address(src).packed + ipaddress.IPv4Address(dst).packed
    head = struct.pack(">BBHHHBB", version << 4 | ihl, tos, length, 7, fragment, ttl, protocol)
    total = sum(struct.unpack(">9H", head + addresses))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return head + struct.pack(">H", total ^ 0xFFFF) + addresses + options + payload


def ipv6(
    protocol: int,
    payload: bytes,
    src: str = "2001:db8::1",
    dst: str = "2001:db8::2",
    *,
    traffic_class: int = 0,
    flow_label: int = 0,
    hops: int = 60,
) -> bytes:
    first = 6 << 28 | traffic_class << 20 | flow_label
    head = struct.pack(">IHBB", first, len(payload), protocol, hops)
    return head + ipaddress.IPv6Address(src).packed + ipaddress.IPv6Address(dst).packed + payload


def extension(following: int, body: bytes = bytes(6)) -> bytes:
    """An IPv6 extension header; ``body`` fills it to a multiple of 8."""
    assert (len(body) + 2) % 8 == 0
    return bytes([following, (len(body) + 2) // 8 - 1]) + body


def tcp(src: int = 443, dst: int = 50000, flags: int = 0x18, payload: bytes = b"") -> bytes:
    return struct.pack(">HHIIHHHH", src, dst, 1, 2, 5 << 12 | flags, 100, 0, 0) + payload


def udp(src: int = 53, dst: int = 40000, payload: bytes = b"") -> bytes:
    return struct.pack(">HHHH", src, dst, 8 + len(payload), 0) + payload


def mpls(labels: list[int], payload: bytes, bottom: bool = True) -> bytes:
    last = len(labels) - 1
    entries = [
        label << 12 | (0x100 if bottom and i == last else 0) | 64 for i, label in enumerate(labels)
    ]
    return struct.pack(f">{len(entries)}I", *entries) + payload


def vxlan(vni: int, frame: bytes) -> bytes:
    return udp(40000, 4789, struct.pack(">II", 0x08000000, vni << 8) + frame)


def geneve(vni: int, protocol: int, payload: bytes, options: bytes = b"") -> bytes:
    head = struct.pack(">BBHI", len(options) // 4, 0, protocol, vni << 8)
    return udp(40000, 6081, head + options + payload)


def gre(protocol: int, payload: bytes, key: int | None = None, checksum: bool = False) -> bytes:
    flags = (0x2000 if key is not None else 0) | (0x8000 if checksum else 0)
    head = struct.pack(">HH", flags, protocol)
    head += bytes(4) if checksum else b""
    head += struct.pack(">I", key) if key is not None else b""
    return head + payload
