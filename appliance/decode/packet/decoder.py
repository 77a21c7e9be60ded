"""Packet headers of many packets at once: link, network and transport layer, and tunnels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from appliance.columns import Column
from appliance.decode.packet.frames import I64, U8, Frames, Mask
from appliance.decode.packet.link import Link, states
from appliance.decode.packet.network import Network
from appliance.decode.packet.transport import Transport, Tunnels
from appliance.schema import CANONICAL, LABELS, TunnelType

MAX_DEPTH = 4
"""IP packets inside an IP packet that are followed."""


def decode_packets(
    buffer: U8, offset: I64, length: I64, protocol: NDArray[Any]
) -> dict[str, Column]:
    """Decode the captured headers of ``n`` packets into canonical columns.

    ``buffer`` is 1-D ``uint8``; packet ``i`` is ``buffer[offset[i] : offset[i] + length[i]]``
    (``int64 (n,)``, inside the buffer) and begins with what ``protocol[i]`` says, a number of
    sFlow's ``header_protocol`` (1 Ethernet, 7 PPP, 11 IPv4, 12 IPv6, 13 MPLS, 14 PPP or HDLC over
    SONET, 15 IEEE 802.11); others give no columns.

    The outermost IP header gives ``src_addr``, ``protocol`` and so on, the innermost gives
    ``inner_src_addr`` and so on. What was not captured, or lies about its lengths, is null. A
    column that no packet has is not there.
    """
    end = np.minimum(offset + length, len(buffer))
    frames = Frames(buffer, offset.copy(), end, states(protocol))
    link = Link(frames)
    network = Network(frames)
    transport = Transport(network)
    columns: dict[str, Column] = {}
    _link_columns(columns, link)
    _network_columns(columns, network)
    _transport_columns(columns, transport)
    _tunnel_columns(columns, link, transport)
    return columns


def _emit(columns: dict[str, Column], valid: Mask, **values: NDArray[Any]) -> None:
    """Add columns that share ``valid``, unless no row is."""
    count = np.count_nonzero(valid)
    if count:
        mask = None if count == len(valid) else valid
        for name, column in values.items():
            columns[name] = Column(column, CANONICAL[name], mask)


def _link_columns(columns: dict[str, Column], link: Link) -> None:
    _emit(columns, link.has_mac, src_mac=link.src_mac, dst_mac=link.dst_mac)
    _emit(columns, link.has_ethertype, ethertype=link.ethertype)
    if link.tags.any():
        _emit(columns, link.tags > 0, vlan=link.vlan)
        _emit(columns, link.tags > 1, inner_vlan=link.inner_vlan)
    if any(map(len, link.labels)):
        columns["mpls_labels"] = Column(_label_lists(link), LABELS)


def _label_lists(link: Link) -> pa.Array:
    """The label stacks as lists, outermost label first; null for packets without."""
    rows, labels = np.concatenate(link.label_rows), np.concatenate(link.labels)
    # rounds come outermost first, so a stable sort by row keeps each stack's order
    order = np.argsort(rows, kind="stable")
    n = len(link.frames)
    count = np.bincount(rows, minlength=n)
    offsets = np.zeros(n + 1, np.int32)
    np.cumsum(count, out=offsets[1:])
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(labels[order]), mask=pa.array(count == 0)
    )


def _network_columns(columns: dict[str, Column], network: Network) -> None:
    _emit(
        columns,
        network.known,
        ip_version=network.version,
        src_addr=network.src,
        dst_addr=network.dst,
        tos=network.tos,
        ip_len=network.length,
        ip_ttl=network.ttl,
        protocol=network.protocol,
    )
    if network.flow_label is not None:
        sixth = network.known & (network.version == 6)
        _emit(columns, sixth, ipv6_flow_label=network.flow_label)


def _transport_columns(columns: dict[str, Column], transport: Transport) -> None:
    _emit(
        columns,
        transport.has_ports,
        src_port=transport.src_port,
        dst_port=transport.dst_port,
    )
    _emit(columns, transport.has_flags, tcp_flags=transport.tcp_flags)
    if transport.has_icmp.any():
        _emit(
            columns,
            transport.has_icmp,
            icmp_type=transport.header[:, 0].copy(),
            icmp_code=transport.header[:, 1].copy(),
        )


def _tunnel_columns(columns: dict[str, Column], link: Link, transport: Transport) -> None:
    n = len(link.frames)
    tunnels = transport.tunnels()
    if tunnels is None and link.pseudowire is None:
        return
    kind, number = np.zeros(n, np.uint8), np.zeros(n, np.uint32)
    numbered = np.zeros(n, np.bool_)
    if link.pseudowire is not None and link.bottom is not None:
        kind[link.pseudowire] = TunnelType.EOMPLS
        number[link.pseudowire] = link.bottom[link.pseudowire]
        numbered |= link.pseudowire
    if tunnels is not None:
        real = tunnels.kind > 0
        rows = tunnels.rows[real]
        kind[rows] = tunnels.kind[real]
        number[rows] = tunnels.id[real]
        numbered[rows] = tunnels.has_id[real]
        _inner_columns(columns, n, tunnels)
    _emit(columns, kind > 0, tunnel_type=kind)
    _emit(columns, numbered, tunnel_id=number)


def _inner_columns(columns: dict[str, Column], n: int, tunnels: Tunnels | None) -> None:
    """Follow tunnels in tunnels; each level overwrites what the one around it gave."""
    known, ported = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    src, dst = np.zeros((n, 16), np.uint8), np.zeros((n, 16), np.uint8)
    protocol = np.zeros(n, np.uint8)
    src_port, dst_port = np.zeros(n, np.uint16), np.zeros(n, np.uint16)
    outer = np.arange(n)
    for _ in range(MAX_DEPTH):
        if tunnels is None:
            break
        outer = outer[tunnels.rows]
        Link(tunnels.frames)
        network = Network(tunnels.frames)
        transport = Transport(network)
        rows = outer[network.known]
        known[rows] = True
        src[rows], dst[rows] = network.src[network.known], network.dst[network.known]
        protocol[rows] = network.protocol[network.known]
        ported[rows] = transport.has_ports[network.known]
        src_port[rows] = transport.src_port[network.known]
        dst_port[rows] = transport.dst_port[network.known]
        tunnels = transport.tunnels()
    _emit(columns, known, inner_src_addr=src, inner_dst_addr=dst, inner_protocol=protocol)
    _emit(columns, ported, inner_src_port=src_port, inner_dst_port=dst_port)
