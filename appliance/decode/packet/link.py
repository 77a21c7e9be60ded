"""Everything below IP: Ethernet, VLAN tags, MPLS, pseudowires, PPP, IEEE 802.11."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from appliance.decode.packet.frames import (
    ETHERNET,
    FABRIC_PATH,
    I64,
    IPV4,
    IPV6,
    MPLS,
    NOTHING,
    PPP,
    PPPOE,
    SNAP_LIMIT,
    STATES,
    U8,
    WIFI,
    Frames,
    Mask,
    block,
    pick,
    subset,
    words,
)

TAGS = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)
"""Type fields of VLAN tags: IEEE 802.1Q, 802.1ad, and what came before 802.1ad."""
MAX_ROUNDS = 6
"""Ethernet headers and other link headers in one another."""
MAX_TAGS = 8
MAX_LABELS = 16

_HEADER_PROTOCOL = np.zeros(256, np.uint32)
# sFlow version 5, enum header_protocol
_HEADER_PROTOCOL[[1, 7, 11, 12, 13, 14, 15]] = (ETHERNET, PPP, IPV4, IPV6, MPLS, PPP, WIFI)

_LINK = np.zeros(STATES, np.bool_)
_LINK[1:SNAP_LIMIT] = True
_LINK[[*TAGS, ETHERNET, PPP, PPPOE, MPLS, 0x8848, FABRIC_PATH, WIFI]] = True
_TAG = np.zeros(STATES, np.bool_)
_TAG[list(TAGS)] = True
_LABEL = np.zeros(STATES, np.bool_)
_LABEL[[MPLS, 0x8848]] = True
# what may follow the MAC addresses of a real frame: tells pseudowire payloads apart
_PLAUSIBLE = np.zeros(1 << 16, np.bool_)
_PLAUSIBLE[[*TAGS, IPV4, IPV6, 0x0806, PPPOE, 0x8863, MPLS, 0x88CC, 0x888E, 0x8809, 0x88F7]] = True

_MAC = np.uint64((1 << 48) - 1)


def states(header_protocol: NDArray[np.integer]) -> NDArray[np.uint32]:
    """The state that each of sFlow's ``header_protocol`` numbers starts with."""
    known = (header_protocol >= 0) & (header_protocol < len(_HEADER_PROTOCOL))
    return _HEADER_PROTOCOL[np.where(known, header_protocol, 0).astype(np.int64)]


@dataclass(slots=True)
class Link:
    """The link headers of ``n`` frames; afterwards ``frames.state`` is IPv4, IPv6 or nothing."""

    frames: Frames
    src_mac: NDArray[np.uint64] = field(init=False)
    dst_mac: NDArray[np.uint64] = field(init=False)
    has_mac: Mask = field(init=False)
    ethertype: NDArray[np.uint16] = field(init=False)
    """The type field right after the MAC addresses: that of the outermost tag in tagged frames."""
    has_ethertype: Mask = field(init=False)
    tags: NDArray[np.uint8] = field(init=False)
    """``uint8 (n,)``: VLAN tags seen."""
    vlan: NDArray[np.uint16] = field(init=False)
    inner_vlan: NDArray[np.uint16] = field(init=False)
    label_rows: list[I64] = field(default_factory=list)
    labels: list[NDArray[np.uint32]] = field(default_factory=list)
    """Round by round, outermost first: rows that have one more label, and the labels."""
    bottom: NDArray[np.uint32] | None = None
    """``uint32 (n,)``: label at the bottom of the stack, where any row has one."""
    pseudowire: Mask | None = None

    def __post_init__(self) -> None:
        n = len(self.frames)
        self.src_mac = np.zeros(n, np.uint64)
        self.dst_mac = np.zeros(n, np.uint64)
        self.has_mac = np.zeros(n, np.bool_)
        self.ethertype = np.zeros(n, np.uint16)
        self.has_ethertype = np.zeros(n, np.bool_)
        self.tags = np.zeros(n, np.uint8)
        self.vlan = np.zeros(n, np.uint16)
        self.inner_vlan = np.zeros(n, np.uint16)
        self._decode()

    def _decode(self) -> None:
        frames = self.frames
        first = frames.state == ETHERNET
        if first.any():
            self._first_ethernet(subset(first))
        rest = np.flatnonzero(_LINK[frames.state])
        for _ in range(MAX_ROUNDS):
            if not len(rest):
                return
            for handle, mask in (
                (self._ethernet, frames.state[rest] == ETHERNET),
                (self._fabric_path, frames.state[rest] == FABRIC_PATH),
                (self._wifi, frames.state[rest] == WIFI),
                (self._length, (frames.state[rest] < SNAP_LIMIT) & (frames.state[rest] > 0)),
                (self._tags, _TAG[frames.state[rest]]),
                (self._pppoe, frames.state[rest] == PPPOE),
                (self._ppp, frames.state[rest] == PPP),
                (self._mpls, _LABEL[frames.state[rest]]),
            ):
                rows = rest[mask]
                if len(rows):
                    handle(rows)
            rest = rest[_LINK[frames.state[rest]]]
        frames.state[rest] = NOTHING

    def _captured(self, rows: I64, size: int) -> I64:
        """Those of ``rows`` of which ``size`` more bytes were captured; ends the others."""
        frames = self.frames
        whole = frames.pos[rows] + size <= frames.end[rows]
        if whole.all():
            return rows
        frames.state[rows[~whole]] = NOTHING
        return rows[whole]

    def _first_ethernet(self, rows: I64 | None) -> None:
        """The outermost Ethernet header: nearly all frames have one, many have no more."""
        frames = self.frames
        pos = pick(frames.pos, rows)
        header = block(frames.buffer, pos, 16)
        whole = pos + 14 <= pick(frames.end, rows)
        kind = words(header, 12, ">u2").astype(np.uint32)
        if not whole.all():
            kind[~whole] = NOTHING
        dst = words(header, 0, ">u8") >> np.uint64(16)
        src = words(header, 4, ">u8") & _MAC
        if rows is None:
            self.dst_mac, self.src_mac = dst.astype(np.uint64), src.astype(np.uint64)
            self.has_mac, self.has_ethertype = whole, kind >= SNAP_LIMIT
            self.ethertype = kind.astype(np.uint16)
            frames.state, frames.pos = kind, pos + 14
            return
        self.dst_mac[rows], self.src_mac[rows] = dst, src
        self.has_mac[rows], self.has_ethertype[rows] = whole, kind >= SNAP_LIMIT
        self.ethertype[rows] = kind
        frames.state[rows], frames.pos[rows] = kind, pos + 14

    def _ethernet(self, rows: I64) -> None:
        """An Ethernet header behind MPLS or in another one: names MACs where none are known."""
        rows = self._captured(rows, 14)
        frames = self.frames
        header = block(frames.buffer, frames.pos[rows], 16)
        kind = words(header, 12, ">u2").astype(np.uint32)
        new = ~self.has_mac[rows]
        self.dst_mac[rows[new]] = words(header, 0, ">u8")[new].astype(np.uint64) >> np.uint64(16)
        self.src_mac[rows[new]] = words(header, 4, ">u8")[new].astype(np.uint64) & _MAC
        self.has_mac[rows] = True
        new = ~self.has_ethertype[rows] & (kind >= SNAP_LIMIT)
        self.ethertype[rows[new]] = kind[new]
        self.has_ethertype[rows[new]] = True
        frames.state[rows] = kind
        frames.pos[rows] += 14

    def _tags(self, rows: I64) -> None:
        frames = self.frames
        for _ in range(MAX_TAGS):
            rows = self._captured(rows, 4)
            tag = block(frames.buffer, frames.pos[rows], 4)
            vlan = words(tag, 0, ">u2").astype(np.uint16) & np.uint16(0x0FFF)
            seen = self.tags[rows]
            self.vlan[rows[seen == 0]] = vlan[seen == 0]
            self.inner_vlan[rows[seen == 1]] = vlan[seen == 1]
            self.tags[rows] = seen + 1
            frames.state[rows] = words(tag, 2, ">u2")
            frames.pos[rows] += 4
            rows = rows[_TAG[frames.state[rows]]]
            if not len(rows):
                return
        frames.state[rows] = NOTHING

    def _length(self, rows: I64) -> None:
        """IEEE 802.3 frames: a type field only if LLC says SNAP (RFC 1042)."""
        rows = self._captured(rows, 8)
        frames = self.frames
        header = block(frames.buffer, frames.pos[rows], 8)
        snap = words(header, 0, ">u4") == 0xAAAA0300
        snap &= words(header, 4, ">u2") == 0
        kind = np.where(snap, words(header, 6, ">u2"), NOTHING).astype(np.uint32)
        kind[kind < SNAP_LIMIT] = NOTHING
        frames.state[rows] = kind
        frames.pos[rows] += 8
        new = (kind != NOTHING) & ~self.has_ethertype[rows]
        self.ethertype[rows[new]] = kind[new]
        self.has_ethertype[rows[new]] = True

    def _wifi(self, rows: I64) -> None:
        """IEEE 802.11 data frames; RA/TA and so on are put in Ethernet's order."""
        rows = self._captured(rows, 24)
        frames = self.frames
        header = block(frames.buffer, frames.pos[rows], 32)
        control, flags = header[:, 0].astype(np.int64), header[:, 1]
        to_ds, from_ds = (flags & 1) != 0, (flags & 2) != 0
        first, second, third = (words(header, at, ">u8") & _MAC for at in (2, 8, 14))
        four = to_ds & from_ds
        data = (control & 0x0C) == 0x08
        data &= ~four | (frames.pos[rows] + 30 <= frames.end[rows])
        fourth = words(header, 22, ">u8") & _MAC
        self.dst_mac[rows] = np.where(to_ds, third, first)
        self.src_mac[rows] = np.where(four, fourth, np.where(from_ds, third, second))
        self.has_mac[rows] = data
        encrypted = (flags & 0x40) != 0
        empty = (control & 0x40) != 0
        size = 24 + 6 * four + 2 * ((control & 0x80) != 0)
        frames.pos[rows] += size
        # the LLC header follows, as in a frame with a length; the length itself is not used
        frames.state[rows] = np.where(data & ~encrypted & ~empty, 1, NOTHING)

    def _fabric_path(self, rows: I64) -> None:
        """Cisco FabricPath: the outer addresses are switch numbers, so the inner ones count."""
        rows = self._captured(rows, 2)
        self.has_mac[rows] = False
        self.has_ethertype[rows] = False
        self.frames.state[rows] = ETHERNET
        self.frames.pos[rows] += 2

    def _pppoe(self, rows: I64) -> None:
        """RFC 2516, section 4."""
        rows = self._captured(rows, 8)
        self.frames.state[rows] = PPP
        self.frames.pos[rows] += 6

    def _ppp(self, rows: I64) -> None:
        """PPP (RFC 1661, HDLC-like framing of RFC 1662 or without), or Cisco HDLC."""
        rows = self._captured(rows, 4)
        frames = self.frames
        header = block(frames.buffer, frames.pos[rows], 4)
        head = words(header, 0, ">u2").astype(np.int64)
        tail = words(header, 2, ">u2").astype(np.int64)
        cisco = (head == 0x0F00) | (head == 0x8F00)
        framed = head == 0xFF03
        number = np.where(framed, tail, head)
        # protocol field compression: an odd first octet is the whole number
        short = (number & 0x0100) != 0
        number = np.where(short, number >> 8, number)
        kind = np.select(
            [cisco, number == 0x21, number == 0x57, (number == 0x281) | (number == 0x283)],
            [tail, IPV4, IPV6, MPLS],
            NOTHING,
        )
        frames.state[rows] = kind
        frames.pos[rows] += np.where(cisco, 4, 2 * framed + 2 - short)

    def _mpls(self, rows: I64) -> None:
        """RFC 3032; the payload is not named by the stack, so :meth:`_payload` looks at it."""
        frames = self.frames
        if self.bottom is None:
            self.bottom = np.zeros(len(frames), np.uint32)
        for _ in range(MAX_LABELS):
            rows = self._captured(rows, 4)
            entry = words(block(frames.buffer, frames.pos[rows], 4), 0, ">u4").astype(np.uint32)
            self.label_rows.append(rows)
            self.labels.append(entry >> np.uint32(12))
            frames.pos[rows] += 4
            last = (entry & np.uint32(0x100)) != 0
            self.bottom[rows[last]] = entry[last] >> np.uint32(12)
            if last.any():
                self._payload(rows[last])
            rows = rows[~last]
            if not len(rows):
                return
        frames.state[rows] = NOTHING

    def _payload(self, rows: I64) -> None:
        """What follows an MPLS stack: IP by its version nibble, else an Ethernet pseudowire.

        Pseudowires may have a control word, of which the first nibble is 0 (RFC 4385); without it
        the first nibble is that of a MAC address and can be anything (RFC 4928, section 3). Then
        the type field behind the addresses decides, and for IPv4 its checksum.
        """
        rows = self._captured(rows, 1)
        frames = self.frames
        pos = frames.pos[rows]
        header = block(frames.buffer, pos, 20)
        room = frames.end[rows] - pos
        nibble = header[:, 0] >> 4
        frame = _PLAUSIBLE[words(header, 12, ">u2")] & (room >= 14)
        controlled = _PLAUSIBLE[words(header, 16, ">u2")] & (room >= 18)
        sound = (room >= 20) & _checksum(header)
        ipv4 = (nibble == 4) & (header[:, 0] & 15 >= 5) & (sound | ~frame)
        ipv6 = (nibble == 6) & ~frame
        # a control word's flags are nearly always 0; a bridge's group address begins with 01
        control = (nibble == 0) & ~frame & (controlled | (header[:, 0] == 0))
        # nibble 1 is an associated channel (RFC 4385, section 5), unless it looks like a frame
        wire = ~ipv4 & ~ipv6 & ((nibble != 1) | frame)
        frames.state[rows] = np.select([ipv4, ipv6, wire], [IPV4, IPV6, ETHERNET], NOTHING)
        frames.pos[rows] += np.where(wire & control, 4, 0)
        if self.pseudowire is None:
            self.pseudowire = np.zeros(len(frames), np.bool_)
        self.pseudowire[rows[wire]] = True


def _checksum(header: U8) -> Mask:
    """Whether the first 20 bytes of each row are an IPv4 header with a right checksum."""
    total = header.view(">u2").astype(np.uint32).sum(axis=1)
    total = (total & 0xFFFF) + (total >> 16)
    return np.asarray(((total & 0xFFFF) + (total >> 16)) == 0xFFFF)
