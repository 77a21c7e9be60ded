"""From captured packets to transport segments: link layers, IPv4 and IPv6, all packets at once.

Link layers: Ethernet with any VLAN tags, raw IP, BSD loopback (NULL, LOOP), Linux cooked capture
v1 and v2. Everything is bounds-checked against the captured bytes; a packet that is no IP, or cut
too short to say, is left out and counted by reason.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.batch import I64, IPV4_MAPPED_PREFIX, U8
from appliance.decode import gather
from appliance.offline.pcap import Packets

Mask = NDArray[np.bool_]

NULL, ETHERNET, RAW_BSD, RAW_BSD_2, RAW, LOOP, SLL = 0, 1, 12, 14, 101, 108, 113
IPV4, IPV6, SLL2 = 228, 229, 276
_ETHERTYPE_IPV4, _ETHERTYPE_IPV6 = 0x0800, 0x86DD
_VLAN_TAGS = (0x8100, 0x88A8, 0x9100, 0x9200)
_MAX_TAGS = 8
_MAX_EXTENSIONS = 8
_PREFIX = np.frombuffer(IPV4_MAPPED_PREFIX, np.uint8)
UDP, TCP = 17, 6


@dataclass(slots=True)
class Segments:
    """What IP carried in ``n`` packets, whole or as fragments; a row per IP packet."""

    packet: I64
    """Index of the row's packet in its :class:`Packets`."""
    protocol: I64
    """IP protocol number of the payload."""
    start: I64
    """First byte of the IP payload in the buffer."""
    stop: I64
    """Its end as the IP header has it, which may be beyond :attr:`captured`."""
    captured: I64
    """Where the captured bytes end."""
    source: U8
    """``(n, 16)``, IPv4 mapped."""
    target: U8
    """``(n, 16)``, IPv4 mapped."""
    fragment: I64
    """Offset in octets of a fragment, -1 for a whole packet."""
    more: Mask
    """More fragments follow."""
    identification: I64
    """Of fragments."""

    def __len__(self) -> int:
        return len(self.packet)


def _read(buffer: U8, at: I64, end: I64, size: int, ok: Mask) -> tuple[I64, Mask]:
    """``size`` octets at each place, as numbers, where they were captured; elsewhere 0."""
    ok = ok & (at + size <= end)
    safe = np.where(ok, at, 0)
    if len(buffer) < size:
        return np.zeros(len(at), np.int64), np.zeros(len(at), np.bool_)
    value = np.zeros(len(at), np.int64)
    for octet in gather.records(buffer, safe, size).T:
        value = value << 8 | octet
    return np.where(ok, value, 0), ok


def _network(packets: Packets, skipped: Counter[str]) -> tuple[I64, I64]:
    """Where the network layer starts, and its EtherType (0: none that is known)."""
    buffer, link = packets.buffer, packets.link
    at = packets.offset.copy()
    end = packets.offset + packets.length
    kind = np.zeros(len(at), np.int64)
    for number in np.unique(link).tolist():
        rows = np.flatnonzero(link == number)
        start, stop = at[rows], end[rows]
        everyone = np.ones(len(rows), np.bool_)
        if number == ETHERNET:
            place, size = 12, 14
        elif number == SLL:
            place, size = 14, 16
        elif number == SLL2:
            place, size = 0, 20
        elif number in (RAW, RAW_BSD, RAW_BSD_2, IPV4, IPV6, NULL, LOOP):
            # the address family's number depends on the system; the IP version does not
            size = 4 if number in (NULL, LOOP) else 0
            first, ok = _read(buffer, start + size, stop, 1, everyone)
            kind[rows] = np.where(
                first >> 4 == 4, _ETHERTYPE_IPV4, np.where(first >> 4 == 6, _ETHERTYPE_IPV6, 0)
            )
            at[rows] = start + size
            continue
        else:
            skipped[f"link type {number} is not supported"] += len(rows)
            continue
        ethertype, ok = _read(buffer, start + place, stop, 2, everyone)
        next_layer = start + size
        for _ in range(_MAX_TAGS):
            tagged = np.isin(ethertype, _VLAN_TAGS) & ok
            if not tagged.any():
                break
            inner, ok = _read(buffer, next_layer + 2, stop, 2, tagged)
            ethertype = np.where(tagged, inner, ethertype)
            next_layer = np.where(tagged, next_layer + 4, next_layer)
        kind[rows] = ethertype
        at[rows] = next_layer
    return at, kind


def segments(packets: Packets, skipped: Counter[str]) -> Segments:
    """The IP payloads of all packets that are IP; the others are counted in ``skipped``."""
    at, kind = _network(packets, skipped)
    end = packets.offset + packets.length
    buffer = packets.buffer
    first, ok = _read(buffer, at, end, 1, np.isin(kind, (_ETHERTYPE_IPV4, _ETHERTYPE_IPV6)))
    v4 = ok & (kind == _ETHERTYPE_IPV4) & (first >> 4 == 4) & (at + 20 <= end)
    v6 = ok & (kind == _ETHERTYPE_IPV6) & (first >> 4 == 6) & (at + 40 <= end)
    other = len(packets) - int(np.count_nonzero(v4 | v6))
    if other:
        skipped["not IP, or cut inside the IP header"] += other
    parts = [
        _ipv4(buffer, np.flatnonzero(v4), at[v4], end[v4]),
        _ipv6(buffer, np.flatnonzero(v6), at[v6], end[v6]),
    ]
    if not len(parts[1]):
        return parts[0]
    if not len(parts[0]):
        return parts[1]
    order = np.argsort(np.concatenate([p.packet for p in parts]), kind="stable")
    return Segments(
        *(
            np.concatenate([getattr(p, name) for p in parts])[order]
            for name in Segments.__slots__  # in the order of the constructor
        )
    )


def _ipv4(buffer: U8, packet: I64, at: I64, end: I64) -> Segments:
    n = len(packet)
    header = gather.records(buffer, at, 20).astype(np.int64)
    size = (header[:, 0] & 15) * 4
    total = header[:, 2] << 8 | header[:, 3]
    # segmentation offload leaves a total length of 0 in captures of the sending host
    stop = np.where(total >= size, at + total, end)
    flags = header[:, 6] << 8 | header[:, 7]
    offset, more = (flags & 0x1FFF) * 8, flags & 0x2000 != 0
    source, target = np.empty((n, 16), np.uint8), np.empty((n, 16), np.uint8)
    for address, column in ((source, 12), (target, 16)):
        address[:, :12] = _PREFIX
        address[:, 12:] = header[:, column : column + 4]
    return Segments(
        packet=packet,
        protocol=np.where(size >= 20, header[:, 9], -1),
        start=at + size,
        stop=stop,
        captured=end,
        source=source,
        target=target,
        fragment=np.where(more | (offset > 0), offset, -1),
        more=more,
        identification=header[:, 4] << 8 | header[:, 5],
    )


def _ipv6(buffer: U8, packet: I64, at: I64, end: I64) -> Segments:
    n = len(packet)
    header = gather.records(buffer, at, 40)
    size = header[:, 4].astype(np.int64) << 8 | header[:, 5]
    protocol = header[:, 6].astype(np.int64)
    stop = np.where(size > 0, at + 40 + size, end)
    start = at + 40
    fragment = np.full(n, -1, np.int64)
    more = np.zeros(n, np.bool_)
    identification = np.zeros(n, np.int64)
    for _ in range(_MAX_EXTENSIONS):
        # hop-by-hop options, routing, destination options; authentication; fragment
        options = np.isin(protocol, (0, 43, 60))
        authentication, fragmented = protocol == 51, protocol == 44
        walking = (options | authentication | fragmented) & (fragment < 0)
        if not walking.any():
            break
        following, ok = _read(buffer, start, end, 1, walking)
        count, ok = _read(buffer, start + 1, end, 1, ok)
        word, whole = _read(buffer, start + 2, end, 2, ok & fragmented)
        number, whole = _read(buffer, start + 4, end, 4, whole)
        ok &= whole | ~fragmented
        # an atomic fragment (RFC 6946) is a whole packet
        part = whole & (word & 0xFFF9 != 0)
        fragment = np.where(part, word & 0xFFF8, fragment)
        more |= part & (word & 1 != 0)
        identification = np.where(part, number, identification)
        length = np.where(fragmented, 8, np.where(authentication, (count + 2) * 4, (count + 1) * 8))
        start = np.where(ok, start + length, start)
        protocol = np.where(ok, following, np.where(walking, -1, protocol))
    return Segments(
        packet=packet,
        protocol=protocol,
        start=start,
        stop=stop,
        captured=end,
        source=np.ascontiguousarray(header[:, 8:24]),
        target=np.ascontiguousarray(header[:, 24:40]),
        fragment=fragment,
        more=more,
        identification=identification,
    )
