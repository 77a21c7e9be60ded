"""Structured data (RFC 6313): basicList, subTemplateList and subTemplateMultiList as JSON text.

The one place where flow records are read value by value: such fields are rare, and have no columns.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

from appliance.decode.elements import Registry
from appliance.decode.netflow.layout import VARIABLE, Layout

MAX_DEPTH = 8
MAX_VALUES = 1024
"""Values of one field; the rest is left out."""
BASIC, SUB, MULTI = 291, 292, 293

_SEMANTICS = {0: "noneOf", 1: "exactlyOneOf", 2: "oneOrMoreOf", 3: "allOf", 4: "ordered"}

Find = Callable[[int], Layout | None]


class ListReader:
    """Reads the lists of one source; ``find`` gives the layout of a template id."""

    def __init__(self, registry: Registry, find: Find) -> None:
        self._registry = registry
        self._find = find
        self._values = 0

    def text(self, number: int, data: bytes) -> str:
        """JSON text of a list element ``number`` with content ``data``."""
        self._values = 0
        return json.dumps(self._list(number, data, 1))

    def _list(self, number: int, data: bytes, depth: int) -> object:
        if depth > MAX_DEPTH or not data:
            return data.hex()
        if number == BASIC:
            return self._basic(data, depth)
        semantic = _SEMANTICS.get(data[0], "undefined")
        if number == SUB:
            if len(data) < 3:
                return data.hex()
            template = data[1] << 8 | data[2]
            return {"semantic": semantic, **self._records(template, data[3:], depth)}
        parts: list[object] = []
        at = 1
        while at + 4 <= len(data):
            template = data[at] << 8 | data[at + 1]
            length = data[at + 2] << 8 | data[at + 3]
            if length < 4 or at + length > len(data):
                break
            parts.append(self._records(template, data[at + 4 : at + length], depth))
            at += length
        return {"semantic": semantic, "lists": parts}

    def _basic(self, data: bytes, depth: int) -> object:
        if len(data) < 5:
            return data.hex()
        number = data[1] << 8 | data[2]
        length = data[3] << 8 | data[4]
        pen, at = 0, 5
        if number & 0x8000:
            if len(data) < 9:
                return data.hex()
            number &= 0x7FFF
            pen, at = int.from_bytes(data[5:9], "big"), 9
        values: list[object] = []
        while at < len(data) and length and self._count():
            value, at = _cut(data, at, length)
            if value is None:
                break
            values.append(self._value(pen, number, value, depth))
        return {
            "semantic": _SEMANTICS.get(data[0], "undefined"),
            "element": self._name(pen, number),
            "values": values,
        }

    def _records(self, template: int, data: bytes, depth: int) -> dict[str, object]:
        layout = self._find(template)
        if layout is None:
            return {"template": template, "octets": data.hex()}
        names = self._names(layout)
        records: list[object] = []
        at = 0
        while at + layout.minimum <= len(data) and self._count():
            record: dict[str, object] = {}
            for f, name in zip(layout.fields, names, strict=True):
                value, at = _cut(data, at, f.length)
                if value is None:
                    return {"template": template, "records": records}
                record[name] = self._value(f.pen, f.id, value, depth)
            records.append(record)
        return {"template": template, "records": records}

    def _names(self, layout: Layout) -> list[str]:
        """Names of the fields; the second one of an element ends in ``_2``, and so on."""
        count: Counter[str] = Counter()
        names = []
        for f in layout.fields:
            name = self._name(f.pen, f.id)
            count[name] += 1
            names.append(name if count[name] == 1 else f"{name}_{count[name]}")
        return names

    def _count(self) -> bool:
        self._values += 1
        return self._values <= MAX_VALUES

    def _name(self, pen: int, number: int) -> str:
        element = self._registry.get(pen, number)
        return f"{pen}.{number}" if element is None else element.name

    def _value(self, pen: int, number: int, data: bytes, depth: int) -> object:
        if pen == 0 and number in (BASIC, SUB, MULTI):
            return self._list(number, data, depth + 1)
        element = self._registry.get(pen, number)
        return plain_value(element.type if element else "octetArray", data)


def _cut(data: bytes, at: int, length: int) -> tuple[bytes | None, int]:
    """The value at ``at`` and where it ends; None where it does not fit."""
    if length == VARIABLE:
        if at >= len(data):
            return None, at
        length = data[at]
        at += 1
        if length == 255:
            if at + 2 > len(data):
                return None, at
            length = data[at] << 8 | data[at + 1]
            at += 2
    if at + length > len(data):
        return None, at
    return data[at : at + length], at + length


def plain_value(abstract: str, data: bytes) -> object:
    """A value as JSON can hold it: numbers, text, addresses as text, and hexadecimal octets."""
    if abstract.startswith("unsigned") and 0 < len(data) <= 8:
        return int.from_bytes(data, "big")
    if abstract.startswith("signed") and 0 < len(data) <= 8:
        return int.from_bytes(data, "big", signed=True)
    if abstract == "string":
        return data.rstrip(b"\0").decode("utf-8", "replace")
    if abstract == "ipv4Address" and len(data) == 4:
        return ".".join(str(octet) for octet in data)
    if abstract == "boolean" and data in (b"\1", b"\2"):
        return data == b"\1"
    if abstract in ("dateTimeSeconds", "dateTimeMilliseconds") and len(data) in (4, 8):
        return int.from_bytes(data, "big")
    return data.hex()
