"""Flow records as JSON: a line a record, made column by column.

Keys are the names of the columns of :mod:`appliance.schema`, but for these, which follow the
vocabulary of the conformance corpus:

- ``version``: 1, 5, 7, 9 or 10; 5 also for sFlow, where ``export_protocol`` says ``sflow_v5``.
- ``start_ms``, ``end_ms``, ``event_time_ms`` (and ``rev_…``): of the columns in ns.
- ``bytes_field``, ``packets_field``: the element's name where it is not octetDeltaCount or
  packetDeltaCount, of ``bytes_element`` and ``packets_element``.
- ``kind``: ``flow_sample``, ``expanded_flow_sample`` or ``discard_sample``.
- addresses and MAC addresses are text; labels are lists; octets are hexadecimal.

What a record does not have is left out.
"""

from __future__ import annotations

import ipaddress
import math
import re
import socket
from collections.abc import Callable
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from appliance.batch import IPV4_MAPPED_PREFIX
from appliance.decode.elements import Registry
from appliance.schema import (
    ADDRESS,
    REVERSE_PREFIX,
    ExportProtocol,
    FlowKind,
    SamplingSource,
    TunnelType,
)

TIMES = {"start_ns": "start_ms", "end_ns": "end_ms", "event_ns": "event_time_ms"}
"""Columns in ns that are shown in ms."""
COUNTER_FIELDS = {
    23: "post_octets",
    24: "post_packets",
    85: "permanent_octets",
    86: "permanent_packets",
    231: "initiator_octets",
    232: "responder_octets",
    298: "initiator_packets",
    299: "responder_packets",
}
"""``bytes_field`` and ``packets_field`` by element."""
MARKS = ("uptime_lt_switched", "from_frame")
"""Booleans that are shown where they are true only."""
READY = ("scope", "fields")
"""Columns of options data that hold JSON."""
_FIRST = ("exporter", "exporter_port", "export_protocol", "observation_domain", "template_id")
_WITHOUT_DOMAIN = (
    ExportProtocol.NETFLOW_V1,
    ExportProtocol.NETFLOW_V5,
    ExportProtocol.NETFLOW_V7,
)


def address_text(address: bytes) -> str:
    """Text of a 16-byte address; an IPv4-mapped one as IPv4."""
    if address[:12] == IPV4_MAPPED_PREFIX:
        return socket.inet_ntoa(address[12:])
    return str(ipaddress.IPv6Address(address))


def mac_text(mac: int) -> str:
    """``aa:bb:cc:dd:ee:ff`` of a 48-bit integer."""
    return mac.to_bytes(8, "big")[2:].hex(":")


class Renderer:
    """Renders record batches; which integers are MAC addresses, the registry says."""

    def __init__(self, registry: Registry) -> None:
        self._macs = {e.column for e in registry if e.type == "macAddress"}

    def lines(self, batch: pa.RecordBatch, packet: pa.Array, kind: str = "") -> list[str]:
        """A JSON object for each row; ``packet``: int64, the rows' frame numbers.

        ``kind`` becomes the key ``type``. The columns :data:`READY` are JSON already.
        """
        names = batch.schema.names
        order = [n for n in _FIRST if n in names] + [n for n in names if n not in _FIRST]
        fields = [_member("packet", _number(packet))]
        if kind:
            fields.insert(0, pa.repeat(_string(f'"type":"{kind}"'), len(packet)))
        for name in order:
            fields += self._fields(name, batch.column(names.index(name)), batch)
        body = pc.binary_join_element_wise(*fields, _string(","), null_handling="skip")
        lines: list[str] = _joined("{", body, "}").to_pylist()
        return lines

    def _fields(self, name: str, column: pa.Array, batch: pa.RecordBatch) -> list[pa.Array]:
        """The members that one column becomes."""
        if name == "export_protocol":
            return [
                _member("version", _mapped(column, lambda v: 5 if v == 105 else v)),
                _member(name, _mapped(column, lambda v: ExportProtocol(v).name.lower())),
            ]
        if name == "observation_domain":
            protocol = batch.column("export_protocol")
            without = pc.is_in(protocol, value_set=pa.array(_WITHOUT_DOMAIN, protocol.type))
            column = pc.if_else(without, pa.scalar(None, column.type), column)
        elif name == "kind":
            column = _kind(column, batch)
            return [_member(name, _mapped(column, str))]
        elif name in ("bytes_element", "packets_element"):
            named = _mapped(column, lambda v: COUNTER_FIELDS.get(v, str(v)))
            return [_member(name.replace("_element", "_field"), named)]
        elif name == "sampling_source":
            return [_member(name, _mapped(column, lambda v: SamplingSource(v).name.lower()))]
        elif name.removeprefix("inner_") == "tunnel_type":
            return [_member(name, _mapped(column, lambda v: TunnelType(v).name.lower()))]
        elif name in MARKS:
            column = pc.if_else(column, column, pa.scalar(None, pa.bool_()))
        elif name == "export_ns":
            column = pc.if_else(
                pc.equal(column, pa.scalar(0, column.type)), pa.scalar(None, column.type), column
            )
        elif (stem := _stem(name)) in TIMES:
            name = name.replace(stem, TIMES[stem])
            column = pc.divide(column, _MILLION)
        return [_member(name, self._json(name, column))]

    def _json(self, name: str, column: pa.Array) -> pa.Array:
        """The values as JSON text, by type; null stays null."""
        kind = column.type
        if kind == ADDRESS:
            return _mapped(column.storage, address_text)
        if _stem(name) in self._macs:
            return _mapped(column, mac_text)
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            return _number(column)
        if pa.types.is_list(kind) and pa.types.is_integer(kind.value_type):
            items = pc.cast(column, pa.list_(pa.string()))
            return _joined("[", pc.binary_join(items, ","), "]")
        if pa.types.is_binary(kind):
            return _mapped(column, bytes.hex)
        if name in READY:
            return column
        if pa.types.is_string(kind):
            return _mapped(column, str)
        values = column.to_pylist(maps_as_pydicts="lossy")
        return pa.array([None if v is None else _text(_plain(v)) for v in values], pa.string())


def _stem(name: str) -> str:
    """Column of which ``name`` is the reverse or a repetition.

    >>> _stem("rev_src_mac"), _stem("start_ns_2"), _stem("ipv4_ttl")
    ('src_mac', 'start_ns', 'ipv4_ttl')
    """
    return re.sub(r"_\d+$", "", name.removeprefix(REVERSE_PREFIX))


def _plain(value: object) -> object:
    """What JSON can say of a value: it has no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: object) -> str:
    return orjson.dumps(value).decode()


def _number(column: pa.Array) -> pa.Array:
    return pc.cast(column, pa.string())


def _member(name: str, text: pa.Array) -> pa.Array:
    return _joined(f'"{name}":', text, "")


def _joined(before: str, text: pa.Array, after: str) -> pa.Array:
    return pc.binary_join_element_wise(_string(before), text, _string(after), _EMPTY)


def _string(text: str) -> pa.Scalar:
    """A scalar with its type given: Arrow looks for pandas, each time, to find it out."""
    return pa.scalar(text, pa.string())


_EMPTY = _string("")
_MILLION = pa.scalar(1_000_000, pa.int64())


def _mapped(column: pa.Array, function: Callable[[Any], object]) -> pa.Array:
    """JSON text of ``function`` of each value, called once for each different value."""
    encoded = column.dictionary_encode()
    texts = [_text(function(v)) for v in encoded.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(encoded.indices)


def _kind(column: pa.Array, batch: pa.RecordBatch) -> pa.Array:
    """Names of ``kind``; only expanded samples say how ``in_if`` is to be read."""
    names = _names(FlowKind)
    plain = pc.index_in(column, pa.array(list(names), column.type))
    text = pa.array([names[k] for k in names], pa.string()).take(plain)
    if "in_if_format" not in batch.schema.names:
        return text
    sample = pc.equal(column, pa.scalar(int(FlowKind.FLOW_SAMPLE), column.type))
    expanded = pc.and_(sample, pc.is_valid(batch.column("in_if_format")))
    return pc.if_else(
        pc.fill_null(expanded, pa.scalar(False, pa.bool_())), _string("expanded_flow_sample"), text
    )


def _names(enum: type[FlowKind]) -> dict[int, str]:
    return {int(k): k.name.lower() for k in enum}
