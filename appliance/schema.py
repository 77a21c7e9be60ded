"""The canonical schema: the names and types of the columns of a FlowBatch.

A FlowBatch is a ``pyarrow.RecordBatch`` whose columns are a subset of this schema; a column that
is not there is null for all rows. Information elements with no canonical name become columns named
by their registry (``snake_case``) with a type from :data:`ABSTRACT_TYPES`; elements that no
registry names go, as ``<pen>.<id>``, into the map column ``extra``.

Conventions: addresses are 16 bytes, IPv4 mapped, with Arrow's ``uuid`` extension type, which DuckDB
handles as one 128-bit integer (see docs/decisions); times are ``int64`` ns since the epoch; MAC
addresses are 48-bit integers in ``uint64``; counters are as sent, never multiplied by a sampling
rate.
"""

from __future__ import annotations

from enum import IntEnum

import pyarrow as pa

ADDRESS = pa.uuid()
LABELS = pa.list_(pa.uint32())
EXTRA = pa.map_(pa.string(), pa.string())


class ExportProtocol(IntEnum):
    """Column ``export_protocol``: how the record was exported; also part of a source's key."""

    NETFLOW_V1 = 1
    NETFLOW_V5 = 5
    NETFLOW_V7 = 7
    NETFLOW_V9 = 9
    IPFIX = 10
    SFLOW_V5 = 105
    UNKNOWN = 255


class SamplingSource(IntEnum):
    """Column ``sampling_source``: where ``sampling_rate`` comes from, best first."""

    RECORD = 1
    OPTIONS = 2
    HEADER = 3
    CONFIG = 4
    UNKNOWN = 0


class FlowKind(IntEnum):
    """Column ``kind``: what a row of sFlow is."""

    FLOW_SAMPLE = 1
    DISCARD_SAMPLE = 2
    COUNTER_SAMPLE = 3


class TunnelType(IntEnum):
    """Column ``tunnel_type``: the outermost encapsulation that hides the ``inner_`` columns."""

    GRE = 1
    IP_IN_IP = 2
    VXLAN = 3
    GENEVE = 4
    SRV6 = 5
    EOMPLS = 6


_COMMON: dict[str, pa.DataType] = {
    # who sent it and when; filled for every row by decode.Decoder, not by the protocols
    "received_ns": pa.int64(),
    "exporter": ADDRESS,
    "exporter_port": pa.uint16(),
    "export_protocol": pa.uint8(),
    "observation_domain": pa.uint32(),
    # of the datagram or the data record
    "export_ns": pa.int64(),
    "template_id": pa.uint16(),
    "sampling_rate": pa.uint32(),
    "sampling_source": pa.uint8(),
}

_FLOW: dict[str, pa.DataType] = {
    "src_addr": ADDRESS,
    "dst_addr": ADDRESS,
    "src_port": pa.uint16(),
    "dst_port": pa.uint16(),
    "protocol": pa.uint8(),
    "bytes": pa.uint64(),
    "packets": pa.uint64(),
    "start_ns": pa.int64(),
    "end_ns": pa.int64(),
    "tcp_flags": pa.uint16(),
    "tos": pa.uint8(),
    "in_if": pa.uint32(),
    "out_if": pa.uint32(),
    "src_as": pa.uint32(),
    "dst_as": pa.uint32(),
    "src_mask": pa.uint8(),
    "dst_mask": pa.uint8(),
    "next_hop": ADDRESS,
    "bgp_next_hop": ADDRESS,
    "ip_version": pa.uint8(),
    "direction": pa.uint8(),
    "ip_ttl": pa.uint8(),
    "ip_len": pa.uint32(),
    "ipv6_flow_label": pa.uint32(),
    "icmp_type": pa.uint8(),
    "icmp_code": pa.uint8(),
    "icmp_type_code": pa.uint16(),
    "src_mac": pa.uint64(),
    "dst_mac": pa.uint64(),
    "post_src_mac": pa.uint64(),
    "post_dst_mac": pa.uint64(),
    "ethertype": pa.uint16(),
    "vlan": pa.uint16(),
    "post_vlan": pa.uint16(),
    "inner_vlan": pa.uint16(),
    "dot1q_vlan": pa.uint16(),
    "mpls_labels": LABELS,
    "start_uptime_ms": pa.uint32(),
    "end_uptime_ms": pa.uint32(),
    "uptime_lt_switched": pa.bool_(),
    "flow_end_reason": pa.uint8(),
    "flow_id": pa.uint64(),
    "post_bytes": pa.uint64(),
    "post_packets": pa.uint64(),
    # the information element that bytes and packets come from, where it is not 1 or 2
    "bytes_element": pa.uint16(),
    "packets_element": pa.uint16(),
    "in_vrf": pa.uint32(),
    "out_vrf": pa.uint32(),
    "in_phys_if": pa.uint32(),
    "out_phys_if": pa.uint32(),
    "src_peer_as": pa.uint32(),
    "dst_peer_as": pa.uint32(),
    "layer2_segment_id": pa.uint64(),
    # sampling as sent
    "sampling_interval": pa.uint32(),
    "sampling_mode": pa.uint8(),
    "sampler_id": pa.uint64(),
    "selector_id": pa.uint64(),
    # NetFlow v5 and v7 headers
    "engine_type": pa.uint8(),
    "engine_id": pa.uint8(),
    # NAT and firewall events
    "post_nat_src_addr": ADDRESS,
    "post_nat_dst_addr": ADDRESS,
    "post_nat_src_port": pa.uint16(),
    "post_nat_dst_port": pa.uint16(),
    "firewall_event": pa.uint8(),
    "nat_event": pa.uint8(),
    "event_ns": pa.int64(),
    # the other address family's pair, where a record carries both
    "src_addr_other": ADDRESS,
    "dst_addr_other": ADDRESS,
    # a frame section inside the record, or sFlow's raw header
    "from_frame": pa.bool_(),
    "frame_length": pa.uint32(),
    "header_protocol": pa.uint32(),
    "header_length": pa.uint32(),
    "stripped": pa.uint32(),
    "tunnel_type": pa.uint8(),
    "tunnel_id": pa.uint32(),
    "inner_src_addr": ADDRESS,
    "inner_dst_addr": ADDRESS,
    "inner_src_port": pa.uint16(),
    "inner_dst_port": pa.uint16(),
    "inner_protocol": pa.uint8(),
    # sFlow
    "agent": ADDRESS,
    "kind": pa.uint8(),
    "sequence": pa.uint32(),
    "source_type": pa.uint32(),
    "source_index": pa.uint32(),
    "sample_pool": pa.uint32(),
    "drops": pa.uint32(),
    "in_if_format": pa.uint8(),
    "out_if_format": pa.uint8(),
    "discard_reason": pa.uint16(),
    "ext_vlan_in": pa.uint16(),
    "ext_vlan_out": pa.uint16(),
    "router_as": pa.uint32(),
    "as_path": LABELS,
    "communities": LABELS,
    "local_pref": pa.uint32(),
    "record_formats": LABELS,
    # names, from options data
    "app_name": pa.string(),
    "in_if_name": pa.string(),
    "out_if_name": pa.string(),
    "in_vrf_name": pa.string(),
    "out_vrf_name": pa.string(),
    "extra": EXTRA,
}

CANONICAL: dict[str, pa.DataType] = {**_COMMON, **_FLOW}
"""Canonical columns by name, in order of presentation."""

DRILL_DOMAINS = range(0xFFFE_0000, 0xFFFE_0040)
"""Observation domains that drills export in, one after the other: so many that records of one drill
are never taken for those of another, so few that a ledger has room for them. Queries and roll-ups
leave them out; the store and the ledger have them."""

REVERSE_PREFIX = "rev_"
"""RFC 5103: the reverse direction of column ``x`` is column ``rev_x`` of the same type."""

ABSTRACT_TYPES: dict[str, pa.DataType] = {
    "octetArray": pa.binary(),
    "unsigned8": pa.uint8(),
    "unsigned16": pa.uint16(),
    "unsigned32": pa.uint32(),
    "unsigned64": pa.uint64(),
    "signed8": pa.int8(),
    "signed16": pa.int16(),
    "signed32": pa.int32(),
    "signed64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "boolean": pa.bool_(),
    "macAddress": pa.uint64(),
    "string": pa.string(),
    "dateTimeSeconds": pa.int64(),
    "dateTimeMilliseconds": pa.int64(),
    "dateTimeMicroseconds": pa.int64(),
    "dateTimeNanoseconds": pa.int64(),
    "ipv4Address": ADDRESS,
    "ipv6Address": ADDRESS,
    "basicList": pa.string(),
    "subTemplateList": pa.string(),
    "subTemplateMultiList": pa.string(),
}
"""Arrow type of an element with no canonical name, by its abstract type (RFC 7012, section 3.1)."""


def column_type(name: str) -> pa.DataType | None:
    """The Arrow type of canonical column ``name``, its reverse or its repetition; else None.

    >>> column_type("rev_bytes"), column_type("src_port_2"), column_type("colour")
    (DataType(uint64), DataType(uint16), None)
    """
    if name in CANONICAL:
        return CANONICAL[name]
    base = name.removeprefix(REVERSE_PREFIX)
    stem, _, number = base.rpartition("_")
    if number.isdigit() and stem in CANONICAL:
        base = stem
    return CANONICAL.get(base)
