"""Capture files and the packets in them, as bytes."""

from __future__ import annotations

import ipaddress
import struct

V4 = ("192.0.2.1", "198.51.100.9")
V6 = ("2001:db8::1", "2001:db8::9")
TIME_NS = 1_700_000_000_123_456_000


def udp(payload, source_port=50000, port=2055):
    return struct.pack(">4H", source_port, port, 8 + len(payload), 0) + payload


def ip(body, protocol=17, pair=V4, identification=7, flags=0):
    source, target = (ipaddress.ip_address(a) for a in pair)
    if source.version == 4:
        head = (0x45, 0, 20 + len(body), identification, flags, 64, protocol, 0)
        return struct.pack(">BBHHHBBH", *head) + source.packed + target.packed + body
    return struct.pack(">IHBB", 6 << 28, len(body), protocol, 64) + (
        source.packed + target.packed + body
    )


def ethernet(packet, tags=()):
    kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
    tagged = b"".join(struct.pack(">HH", tpid, vlan) for tpid, vlan in tags)
    return bytes(12) + tagged + kind + packet


def pcap(packets, link=1, order="<", nanoseconds=False, cut=0):
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    unit = 1 if nanoseconds else 1000
    for packet in packets:
        seconds, rest = divmod(TIME_NS, 10**9)
        kept = packet[: len(packet) - cut]
        data += struct.pack(order + "4I", seconds, rest // unit, len(kept), len(packet)) + kept
    return data


def block(order, kind, body):
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + size + body + size


def section(order):
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order, link, resolution=None, shift=None):
    options = b""
    if resolution is not None:
        options += struct.pack(order + "HHB3x", 9, 1, resolution)
    if shift is not None:
        options += struct.pack(order + "HHq", 14, 8, shift)
    return block(order, 1, struct.pack(order + "HHI", link, 0, 0) + options + bytes(4))


def enhanced(order, number, ticks, packet):
    head = (number, ticks >> 32, ticks & 0xFFFFFFFF, len(packet), len(packet))
    return block(order, 6, struct.pack(order + "5I", *head) + packet)


def simple(order, packet):
    return block(order, 3, struct.pack(order + "I", len(packet)) + packet)


def tcp(data, sequence, flags=0x10, source_port=40000, port=4739):
    head = (source_port, port, sequence & 0xFFFFFFFF, 0, 5 << 4, flags, 8192, 0, 0)
    return ethernet(ip(struct.pack(">HHIIBBHHH", *head) + data, protocol=6))
