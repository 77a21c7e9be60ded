"""Export datagrams of numbered records, many at once: prebuilt arrays, in which numbers change.

A datagram is three pieces, which lie apart: header, template set (where one is due) and the rest.
"""

from __future__ import annotations

import struct
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.drill.streams import PROTOCOLS, split

UPTIME_MS = 900_000_000
TEMPLATE = 256
MASK = 0xFFFFFFFF
_AGENT = 0xC0000207  # 192.0.2.7
_FRAME = 56  # Ethernet, IPv4 and TCP headers, filled to a word

# (name, information element, type, value)
_FIELDS = (
    ("src_addr", 8, ">u4", 0),
    ("dst_addr", 12, ">u4", 0),
    ("src_port", 7, ">u2", 0),
    ("dst_port", 11, ">u2", 443),
    ("bytes", 1, ">u4", 1400),
    ("packets", 2, ">u4", 2),
    ("in_if", 10, ">u4", 1),
    ("out_if", 14, ">u4", 2),
    ("protocol", 4, "u1", 6),
    ("tos", 5, "u1", 0),
    ("tcp_flags", 6, "u1", 0x18),
    ("src_mask", 9, "u1", 24),
)
Fields = list[tuple[str, str, int]]
"""Name, type and value of each field."""

_V9_HEAD: Fields = [
    ("version", ">u2", 9),
    ("count", ">u2", 0),
    ("uptime", ">u4", UPTIME_MS),
    ("seconds", ">u4", 0),
    ("sequence", ">u4", 0),
    ("domain", ">u4", 0),
]
_IPFIX_HEAD: Fields = [
    ("version", ">u2", 10),
    ("length", ">u2", 0),
    ("seconds", ">u4", 0),
    ("sequence", ">u4", 0),
    ("domain", ">u4", 0),
]
_V5_HEAD: Fields = [
    ("version", ">u2", 5),
    ("count", ">u2", 0),
    ("uptime", ">u4", UPTIME_MS),
    ("seconds", ">u4", 0),
    ("nanoseconds", ">u4", 0),
    ("sequence", ">u4", 0),
    ("domain", ">u2", 0),  # engine type and number
    ("sampling", ">u2", 0),
]
_SFLOW_HEAD: Fields = [
    ("version", ">u4", 5),
    ("agent_type", ">u4", 1),
    ("agent", ">u4", _AGENT),
    ("domain", ">u4", 0),  # sub-agent
    ("sequence", ">u4", 0),
    ("uptime", ">u4", UPTIME_MS),
    ("count", ">u4", 0),
]
_V5_RECORD: Fields = [
    ("src_addr", ">u4", 0),
    ("dst_addr", ">u4", 0),
    ("next_hop", ">u4", 0),
    ("in_if", ">u2", 1),
    ("out_if", ">u2", 2),
    ("packets", ">u4", 2),
    ("bytes", ">u4", 1400),
    ("first", ">u4", UPTIME_MS - 2000),
    ("last", ">u4", UPTIME_MS - 1000),
    ("src_port", ">u2", 0),
    ("dst_port", ">u2", 443),
    ("padding", "u1", 0),
    ("tcp_flags", "u1", 0x18),
    ("protocol", "u1", 6),
    ("tos", "u1", 0),
    ("as_numbers", ">u4", 0),
    ("masks", ">u2", 0x1818),
    ("filling", ">u2", 0),
]
_SFLOW_SAMPLE: Fields = [
    ("sample", ">u4", 1),
    ("sample_length", ">u4", 32 + 24 + _FRAME),
    ("sample_sequence", ">u4", 0),
    ("source", ">u4", 1),
    ("rate", ">u4", 1000),
    ("pool", ">u4", 0),
    ("drops", ">u4", 0),
    ("in_if", ">u4", 1),
    ("out_if", ">u4", 2),
    ("parts", ">u4", 1),
    ("raw_header", ">u4", 1),
    ("raw_header_length", ">u4", 16 + _FRAME),
    ("header_protocol", ">u4", 1),
    ("frame_length", ">u4", 700),
    ("stripped", ">u4", 4),
    ("header_length", ">u4", 54),
    ("macs", ">u8", 0x0200000000010200),
    ("macs_end", ">u4", 2),
    ("ethertype", ">u2", 0x0800),
    ("ip_version", "u1", 0x45),
    ("tos", "u1", 0),
    ("ip_length", ">u2", 682),
    ("fragment", ">u4", 0),
    ("ttl", "u1", 64),
    ("protocol", "u1", 6),
    ("checksum", ">u2", 0),
    ("src_addr", ">u4", 0),
    ("dst_addr", ">u4", 0),
    ("src_port", ">u2", 0),
    ("dst_port", ">u2", 443),
    ("tcp_numbers", ">u8", 0),
    ("tcp_offset", "u1", 0x50),
    ("tcp_flags", "u1", 0x18),
    ("tcp_end", ">u2", 0),
    ("tcp_checksum", ">u4", 0),
    ("filling", ">u2", 0),
]
_HEADS = {"v5": _V5_HEAD, "v9": _V9_HEAD, "ipfix": _IPFIX_HEAD, "sflow": _SFLOW_HEAD}
_RECORDS = {"v5": _V5_RECORD, "sflow": _SFLOW_SAMPLE}


class Stream:
    """``rows`` consecutive datagrams of one protocol at a time, of ``records`` records each.

    Every ``template_every``-th datagram, the first included, has the template before its data.
    """

    def __init__(
        self, protocol: str, run: int, records: int, rows: int, template_every: int
    ) -> None:
        self.protocol = PROTOCOLS[protocol]
        self.records = records
        self.template_every = template_every
        self.head = _filled(_HEADS[protocol], (rows,))
        self.template = _template(protocol)
        fields = _RECORDS.get(protocol, [(name, type_, value) for name, _, type_, value in _FIELDS])
        record = _filled(fields, (rows, records))
        set_: Fields = [("set", ">u2", TEMPLATE), ("set_length", ">u2", 0)]
        lead = _filled(set_ if self.protocol.has_templates else [], (rows,))
        self.body = np.zeros(
            rows, np.dtype([("lead", lead.dtype), ("record", record.dtype, (records,))])
        )
        self.body["lead"], self.body["record"] = lead, record
        if self.protocol.has_templates:
            self.body["lead"]["set_length"] = self.body.itemsize
        self.head["domain"] = run
        self.template_length = np.zeros(rows, np.int64)
        """Of each datagram now: 0 where no template is due."""
        self._is_ipfix = protocol == "ipfix"

    def advance(self, first: int) -> None:
        """Make the datagrams ``first`` and following."""
        datagram = first + np.arange(len(self.head))
        head, record = self.head, self.body["record"]
        head["sequence"] = datagram * self.protocol.units(self.records) & MASK
        number = datagram[:, None] * self.records + np.arange(self.records)
        record["src_addr"], record["dst_addr"], record["src_port"] = split(number)
        due = np.zeros(len(head), np.bool_)
        if self.protocol.has_templates:
            due = datagram % self.template_every == 0
        self.template_length[:] = np.where(due, len(self.template), 0)
        if "seconds" in _names(head):
            head["seconds"] = int(time.time())
        if self._is_ipfix:
            head["length"] = head.itemsize + self.template_length + self.body.itemsize
        else:
            head["count"] = self.records + due
        if "sample_sequence" in _names(record):
            record["sample_sequence"] = number & MASK
            record["pool"] = number * 1000 & MASK


def _names(array: NDArray[Any]) -> tuple[str, ...]:
    return array.dtype.names or ()


def _filled(fields: Fields, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array of records with the fields' values."""
    array = np.zeros(shape, np.dtype([(name, type_) for name, type_, _ in fields]))
    for name, _, value in fields:
        array[name] = value
    return array


def _template(protocol: str) -> bytes:
    """The set that defines the template; empty if the protocol has none."""
    if not PROTOCOLS[protocol].has_templates:
        return b""
    body = struct.pack(">HH", TEMPLATE, len(_FIELDS))
    for _, element, type_, _ in _FIELDS:
        body += struct.pack(">HH", element, np.dtype(type_).itemsize)
    return struct.pack(">HH", 2 if protocol == "ipfix" else 0, 4 + len(body)) + body
