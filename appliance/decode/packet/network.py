"""IPv4 and IPv6 headers, with IPv6 extension headers and fragments."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from appliance.decode.packet.frames import (
    I64,
    IPV4,
    IPV6,
    U8,
    Frames,
    Mask,
    Rows,
    block,
    pick,
    put,
    subset,
    words,
)

MAX_EXTENSIONS = 8
"""Extension headers of one packet; senders that mean well use three."""

_V4 = np.dtype(
    [
        ("version", "u1"),
        ("tos", "u1"),
        ("length", ">u2"),
        ("id", ">u2"),
        ("fragment", ">u2"),
        ("ttl", "u1"),
        ("protocol", "u1"),
        ("checksum", ">u2"),
        ("src", "u4"),
        ("dst", "u4"),
    ]
)
_V6 = np.dtype(
    [
        ("version", ">u4"),
        ("length", ">u2"),
        ("protocol", "u1"),
        ("ttl", "u1"),
        ("src", "V16"),
        ("dst", "V16"),
    ]
)
# 0xffff at bytes 10 and 11, whatever this machine's byte order
_MAPPED = np.frombuffer(b"\0\0\xff\xff", np.uint32)[0]

_FRAGMENT = 44
_ROUTING = 43
_AUTHENTICATION = 51
_EXTENSION = np.zeros(256, np.bool_)
# hop-by-hop, routing, fragment, authentication, destination options, mobility, HIP, shim6
_EXTENSION[[0, _ROUTING, _FRAGMENT, _AUTHENTICATION, 60, 135, 139, 140]] = True
_SEGMENT_ROUTING = 4


@dataclass(slots=True)
class Network:
    """The IP headers of ``n`` frames; what has none has ``known`` false and zeros elsewhere."""

    frames: Frames
    known: Mask = field(init=False)
    """``bool (n,)``: there is a whole IP header."""
    version: NDArray[np.uint8] = field(init=False)
    src: U8 = field(init=False)
    """``uint8 (n, 16)``, IPv4 mapped; ``dst`` too."""
    dst: U8 = field(init=False)
    tos: NDArray[np.uint8] = field(init=False)
    length: NDArray[np.uint32] = field(init=False)
    """Of the IP packet with its header: IPv4's total length, IPv6's payload length and 40."""
    ttl: NDArray[np.uint8] = field(init=False)
    protocol: NDArray[np.uint8] = field(init=False)
    """What comes after IPv6's extension headers, or the first one that was not followed."""
    flow_label: NDArray[np.uint32] | None = None
    """None where no packet is IPv6."""
    pos: I64 = field(init=False)
    """``int64 (n,)``: first byte after the IP header and its extensions."""
    end: I64 = field(init=False)
    """``int64 (n,)``: end of what was captured, or of the IP packet if that is before."""
    whole: Mask = field(init=False)
    """``bool (n,)``: a transport header is at ``pos``: sane lengths, and no later fragment."""
    segment_routing: Mask | None = None
    """``bool (n,)``: has an SRv6 routing header (RFC 8754); None where no packet has."""

    def __post_init__(self) -> None:
        state = self.frames.state
        v4 = state == IPV4
        if v4.all():
            self._v4(None)
            self._extensions(np.flatnonzero(self.whole & (self.protocol == _AUTHENTICATION)))
            return
        n = len(self.frames)
        self.known = np.zeros(n, np.bool_)
        self.version = np.zeros(n, np.uint8)
        self.src = np.zeros((n, 16), np.uint8)
        self.dst = np.zeros((n, 16), np.uint8)
        self.tos = np.zeros(n, np.uint8)
        self.length = np.zeros(n, np.uint32)
        self.ttl = np.zeros(n, np.uint8)
        self.protocol = np.zeros(n, np.uint8)
        self.pos = np.zeros(n, np.int64)
        self.end = np.zeros(n, np.int64)
        self.whole = np.zeros(n, np.bool_)
        rows = np.flatnonzero(v4)
        if len(rows):
            self._v4(rows)
        v6 = state == IPV6
        if v6.any():
            self._v6(subset(v6))
        # IPv4 has one header that is chained as IPv6's are: authentication (RFC 4302)
        candidates = _EXTENSION[self.protocol] & self.whole
        candidates &= v6 | (self.protocol == _AUTHENTICATION)
        self._extensions(np.flatnonzero(candidates))

    def _v4(self, rows: Rows) -> None:
        start, end = pick(self.frames.pos, rows), pick(self.frames.end, rows)
        raw = block(self.frames.buffer, start, 20)
        header = raw.view(_V4)[:, 0]
        first = header["version"]
        size = (first & np.uint8(15)).astype(np.int64) << 2
        length = header["length"].astype(np.uint32)
        known = (start + 20 <= end) & (first >> np.uint8(4) == 4)
        whole = known & (size >= 20) & ((header["fragment"] & np.uint16(0x1FFF)) == 0)
        # a length of 0 is what segmentation offload leaves
        stop = np.minimum(end, start + np.where(length, length, 0xFFFF))
        if rows is None:
            self.known, self.whole, self.pos, self.end = known, whole, start + size, stop
            self.version = np.full(len(known), 4, np.uint8)
            self.tos = np.ascontiguousarray(header["tos"])
            self.length = length
            self.ttl = np.ascontiguousarray(header["ttl"])
            self.protocol = np.ascontiguousarray(header["protocol"])
            self.src, self.dst = _mapped(header["src"]), _mapped(header["dst"])
            return
        self._scatter(rows, known, whole, start + size, stop)
        self.version[rows] = 4
        self.tos[rows] = header["tos"]
        self.length[rows] = length
        self.ttl[rows] = header["ttl"]
        self.protocol[rows] = header["protocol"]
        for name in ("src", "dst"):
            address = getattr(self, name).view(np.uint32)
            address[rows, 2] = _MAPPED
            address[rows, 3] = header[name]

    def _v6(self, rows: Rows) -> None:
        start, end = pick(self.frames.pos, rows), pick(self.frames.end, rows)
        raw = block(self.frames.buffer, start, 40)
        header = raw.view(_V6)[:, 0]
        first = header["version"].astype(np.uint32)
        length = header["length"].astype(np.uint32)
        known = (start + 40 <= end) & (first >> np.uint32(28) == 6)
        stop = np.minimum(end, start + 40 + np.where(length, length, 0xFFFF))
        self._scatter(rows, known, known, start + 40, stop)
        put(self.version, rows, 6)
        put(self.tos, rows, (first >> np.uint32(20)).astype(np.uint8))
        put(self.length, rows, length + np.uint32(40))
        put(self.ttl, rows, header["ttl"])
        put(self.protocol, rows, header["protocol"])
        put(self.src, rows, raw[:, 8:24])
        put(self.dst, rows, raw[:, 24:40])
        self.flow_label = np.zeros(len(self.frames), np.uint32)
        put(self.flow_label, rows, first & np.uint32(0xFFFFF))

    def _scatter(self, rows: Rows, known: Mask, whole: Mask, pos: I64, end: I64) -> None:
        put(self.known, rows, known)
        put(self.whole, rows, whole)
        put(self.pos, rows, pos)
        put(self.end, rows, end)

    def _extensions(self, rows: I64) -> None:
        """Walk the extension headers (RFC 8200, section 4) of all ``rows`` in step."""
        for _ in range(MAX_EXTENSIONS):
            if not len(rows):
                return
            pos = self.pos[rows]
            captured = pos + 8 <= self.end[rows]
            rows, pos = rows[captured], pos[captured]
            header = block(self.frames.buffer, pos, 8)
            kind = self.protocol[rows]
            units = header[:, 1].astype(np.int64)
            size = np.where(kind == _AUTHENTICATION, units * 4 + 8, units * 8 + 8)
            fragment = kind == _FRAGMENT
            size[fragment] = 8
            later = fragment & (words(header, 2, ">u2") >> 3 != 0)
            routed = (kind == _ROUTING) & (header[:, 2] == _SEGMENT_ROUTING)
            if routed.any():
                if self.segment_routing is None:
                    self.segment_routing = np.zeros(len(self.frames), np.bool_)
                self.segment_routing[rows[routed]] = True
            self.protocol[rows] = header[:, 0]
            self.pos[rows] = pos + size
            self.whole[rows[later]] = False
            rows = rows[_EXTENSION[header[:, 0]] & ~later]


def _mapped(address: NDArray[np.uint32]) -> U8:
    """``uint8 (n, 16)``: IPv4-mapped addresses of IPv4 addresses in network byte order."""
    out = np.zeros((len(address), 4), np.uint32)
    out[:, 2] = _MAPPED
    out[:, 3] = address
    return out.view(np.uint8)
