"""Ports, TCP flags, ICMP types; and the tunnels that start at the transport header."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from appliance.decode.packet.frames import (
    ETHERNET,
    I64,
    IPV4,
    IPV6,
    MPLS,
    NOTHING,
    U8,
    Frames,
    Mask,
    block,
    words,
)
from appliance.decode.packet.network import Network
from appliance.schema import TunnelType

_PORTS = np.zeros(256, np.bool_)
# TCP, UDP, DCCP, SCTP, UDP-Lite all begin with the two ports
_PORTS[[6, 17, 33, 132, 136]] = True
_ICMP = np.zeros(256, np.bool_)
_ICMP[[1, 58]] = True
_GRE = 47
# what an IP protocol number says of the packet inside
_INSIDE = np.zeros(256, np.uint32)
_INSIDE[[4, 41, 137, 143]] = (IPV4, IPV6, MPLS, ETHERNET)
_TUNNEL = _INSIDE != NOTHING
_TUNNEL[_GRE] = True

_VXLAN = (4789, 8472)
"""RFC 7348, and the port that Linux used before."""
_GENEVE = 6081
_MPLS_IN_UDP = 6635
_TUNNEL_PORT = np.zeros(1 << 16, np.bool_)
_TUNNEL_PORT[[*_VXLAN, _GENEVE, _MPLS_IN_UDP]] = True


@dataclass(slots=True)
class Tunnels:
    """Packets inside some of the packets."""

    rows: I64
    """``int64 (m,)``: the outer packet of each."""
    frames: Frames
    kind: NDArray[np.uint8]
    """``uint8 (m,)``: TunnelType; 0 where a port looked like a tunnel and the header does not."""
    id: NDArray[np.uint32]
    has_id: Mask


@dataclass(slots=True)
class Transport:
    """The transport headers of ``n`` packets."""

    network: Network
    header: U8 = field(init=False)
    """``uint8 (n, 16)``: the header's first bytes; where ``room`` is less, the rest is noise."""
    room: I64 = field(init=False)
    src_port: NDArray[np.uint16] = field(init=False)
    dst_port: NDArray[np.uint16] = field(init=False)
    has_ports: Mask = field(init=False)
    tcp_flags: NDArray[np.uint16] = field(init=False)
    has_flags: Mask = field(init=False)
    has_icmp: Mask = field(init=False)

    def __post_init__(self) -> None:
        network = self.network
        self.header = block(network.frames.buffer, network.pos, 16)
        self.room = network.end - network.pos
        protocol, whole = network.protocol, network.whole
        self.src_port = words(self.header, 0, ">u2").astype(np.uint16)
        self.dst_port = words(self.header, 2, ">u2").astype(np.uint16)
        self.has_ports = _PORTS[protocol] & whole & (self.room >= 4)
        self.tcp_flags = words(self.header, 12, ">u2").astype(np.uint16) & np.uint16(0x0FFF)
        self.has_flags = (protocol == 6) & whole & (self.room >= 14)
        self.has_icmp = _ICMP[protocol] & whole & (self.room >= 2)

    def tunnels(self) -> Tunnels | None:
        """The packets inside, or None where there are none."""
        network = self.network
        ported = _TUNNEL_PORT[self.dst_port] & (network.protocol == 17)
        rows = np.flatnonzero((_TUNNEL[network.protocol] | ported) & network.whole)
        if not len(rows):
            return None
        protocol, header, room = network.protocol[rows], self.header[rows], self.room[rows]
        out = Tunnels(
            rows,
            Frames(
                network.frames.buffer,
                network.pos[rows],
                network.end[rows],
                _INSIDE[protocol],
            ),
            np.full(len(rows), TunnelType.IP_IN_IP, np.uint8),
            np.zeros(len(rows), np.uint32),
            np.zeros(len(rows), np.bool_),
        )
        if network.segment_routing is not None:
            out.kind[network.segment_routing[rows]] = TunnelType.SRV6
        _gre(out, np.flatnonzero(protocol == _GRE), header, room)
        port = np.where(protocol == 17, words(header, 2, ">u2"), 0)
        virtual = (port == _VXLAN[0]) | (port == _VXLAN[1])
        _vxlan(out, np.flatnonzero(virtual), header, room)
        _geneve(out, np.flatnonzero(port == _GENEVE), header, room)
        labelled = (port == _MPLS_IN_UDP) & (room > 8)
        out.frames.state[labelled] = MPLS
        out.frames.pos[labelled] += 8
        inside = out.frames.state != NOTHING
        out.kind[~inside & ~out.has_id] = 0
        return out


def _gre(out: Tunnels, rows: I64, header: U8, room: I64) -> None:
    """RFC 2784 and 2890; version 1 is PPTP's (RFC 2637), with an acknowledgement more."""
    if not len(rows):
        return
    header, room = header[rows], room[rows]
    flags = words(header, 0, ">u2").astype(np.int64)
    version = flags & 7
    # with the routing present flag of RFC 1701 the length is not known
    sane = (room >= 4) & (version <= 1) & (flags & 0x4000 == 0)
    summed, keyed = flags & 0x8000 != 0, flags & 0x2000 != 0
    numbered, acknowledged = flags & 0x1000 != 0, (flags & 0x0080 != 0) & (version == 1)
    size = 4 + 4 * summed + 4 * keyed + 4 * numbered + 4 * acknowledged
    key = np.where(summed, words(header, 8, ">u4"), words(header, 4, ">u4"))
    out.kind[rows] = TunnelType.GRE * sane
    out.id[rows] = key
    out.has_id[rows] = sane & keyed & (version == 0) & (room >= 8 + 4 * summed)
    out.frames.state[rows] = np.where(sane, words(header, 2, ">u2"), NOTHING)
    out.frames.pos[rows] += size


def _vxlan(out: Tunnels, rows: I64, header: U8, room: I64) -> None:
    """RFC 7348, section 5; behind UDP's 8 bytes."""
    if not len(rows):
        return
    header = header[rows]
    sane = (room[rows] >= 16) & (header[:, 8] & 0x08 != 0)
    out.kind[rows] = TunnelType.VXLAN * sane
    out.id[rows] = words(header, 12, ">u4") >> 8
    out.has_id[rows] = sane
    out.frames.state[rows] = np.where(sane, ETHERNET, NOTHING)
    out.frames.pos[rows] += 16


def _geneve(out: Tunnels, rows: I64, header: U8, room: I64) -> None:
    """RFC 8926, section 3.4; behind UDP's 8 bytes."""
    if not len(rows):
        return
    header = header[rows]
    sane = (room[rows] >= 16) & (header[:, 8] >> 6 == 0)
    out.kind[rows] = TunnelType.GENEVE * sane
    out.id[rows] = words(header, 12, ">u4") >> 8
    out.has_id[rows] = sane
    out.frames.state[rows] = np.where(sane, words(header, 10, ">u2"), NOTHING)
    out.frames.pos[rows] += 16 + (header[:, 8] & 0x3F).astype(np.int64) * 4
