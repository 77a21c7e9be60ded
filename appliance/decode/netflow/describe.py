"""Options data records as objects: for display, and to learn from."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from appliance.columns import Column, to_arrow
from appliance.decode.context import DecodeContext, OptionsRecord
from appliance.decode.elements import Registry
from appliance.decode.netflow import fields as convert
from appliance.decode.netflow.layout import VARIABLE, Field, Layout
from appliance.decode.netflow.records import Records
from appliance.schema import ABSTRACT_TYPES, ADDRESS

V9_SCOPES = {1: "system", 2: "interface", 3: "line_card", 4: "cache", 5: "template"}
"""RFC 3954, section 6.1."""

IPV4_MAPPED = bytes(10) + b"\xff\xff"


def describe(
    ctx: DecodeContext, layout: Layout, records: Records, registry: Registry, room: int
) -> Iterator[tuple[OptionsRecord, dict[int, Any], dict[int, Any]]]:
    """The first ``room`` options records, each with its values by element number.

    Values of scopes are apart; a scope type of NetFlow v9 is numbered by its negative.
    """
    v9 = layout.protocol == 9
    columns = []
    for f in layout.fields:
        name, number, values = _field(f, records, registry, v9)
        columns.append((f.scope, name, number, values))
    datagrams = records.datagram.tolist()
    templates = records.template_id.tolist()
    for i in range(min(len(records), room)):
        record = OptionsRecord(datagrams[i], int(ctx.source[datagrams[i]]), templates[i], {}, {})
        by_number: tuple[dict[int, Any], dict[int, Any]] = ({}, {})
        for is_scope, name, number, values in columns:
            named = record.scope if is_scope else record.fields
            if name in named:
                name = f"{name}_2"
            named[name] = _display(values[i])
            if number:
                by_number[is_scope].setdefault(number, values[i])
        yield record, by_number[False], by_number[True]


def _field(f: Field, records: Records, registry: Registry, v9: bool) -> tuple[str, int, list[Any]]:
    """Name, number (0: none) and values of a field of all records."""
    if f.scope and v9:
        name = V9_SCOPES.get(f.id, f"scope_{f.id}")
        found = convert.unsigned(records, f, ABSTRACT_TYPES["unsigned64"])
        if found is None:
            return name, 0, convert.binary(records, f).to_pylist()
        return name, -f.id, _values(found[0])
    element = registry.get(f.pen, f.id, v9=v9)
    number = f.id if f.pen == 0 else 0
    if element is None:
        return f.key, number, convert.binary(records, f).to_pylist()
    found = None
    if element.type == "dateTimeMilliseconds":
        # kept as sent: what options say of time is in milliseconds
        found = convert.unsigned(records, f, ABSTRACT_TYPES["unsigned64"])
    elif element.type == "octetArray" or (
        f.length != VARIABLE and f.length <= 8 and element.type.startswith("unsigned")
    ):
        type_ = ABSTRACT_TYPES["octetArray" if element.type == "octetArray" else "unsigned64"]
        found = convert.convert(records, f, element.type, type_)
    else:
        found = convert.convert(records, f, element.type, ABSTRACT_TYPES[element.type])
    if found is None:
        return element.column, number, convert.binary(records, f).to_pylist()
    return element.column, number, _values(found[0])


def _values(column: Column) -> list[Any]:
    array = to_arrow(column)
    if column.type == ADDRESS:
        return [_address(octets) for octets in array.storage.to_pylist()]
    return list(array.to_pylist())


def _address(octets: bytes) -> str:
    return str(ip_address(octets[12:] if octets.startswith(IPV4_MAPPED) else octets))


def _display(value: Any) -> object:
    return value.hex() if isinstance(value, bytes) else value
