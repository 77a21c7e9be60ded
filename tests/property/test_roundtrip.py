"""What an exporter puts into a record comes out of its column: any template, any values.

Templates are drawn from the whole registry, with full and reduced sizes, variable lengths, elements
of enterprises, and elements that no registry has.
"""

from __future__ import annotations

import ipaddress
import math
import struct

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from appliance.batch import DatagramBatch
from appliance.decode.elements import REVERSE_PEN
from appliance.schema import ADDRESS, column_type
from tests import builders
from tests.builders import VARIABLE
from tests.decoding import decoder, flow_rows, registry

REGISTRY = registry()
SIZES = {
    "unsigned8": 1, "unsigned16": 2, "unsigned32": 4, "unsigned64": 8,
    "signed8": 1, "signed16": 2, "signed32": 4, "signed64": 8,
    "float32": 4, "float64": 8, "boolean": 1, "macAddress": 6,
    "ipv4Address": 4, "ipv6Address": 16, "string": VARIABLE, "octetArray": VARIABLE,
}  # fmt: skip
MERGED = {
    # counters, times, prefixes, label stacks, sampling, frame sections: several elements a column
    1, 2, 23, 24, 85, 86, 231, 232, 298, 299, *range(150, 161), 21, 22, *range(322, 326),
    44, 45, 169, 170, *range(70, 80), 34, 50, 305, 306, 309, 310, 312, 313, 315,
}  # fmt: skip
PRIVATE = 61_001
"""An enterprise that no registry has."""


def _plain(v9):
    """Elements that alone, unchanged, fill their column."""
    for element in REGISTRY:
        if element.type not in SIZES or element.pen == REVERSE_PEN or (v9 and element.pen):
            continue
        if element.pen == 0 and element.id in MERGED:
            continue
        if REGISTRY.get(element.pen, element.id, v9=v9) == element:
            yield element


PLAIN = {v9: list(_plain(v9)) for v9 in (False, True)}


@st.composite
def fields(draw, v9):
    """A field, and the column and element that it fills (None: unknown)."""
    if draw(st.integers(0, 9)) == 0:
        number = draw(st.integers(20_000, 20_100))
        size = draw(st.integers(1, 20) if v9 else st.one_of(st.just(VARIABLE), st.integers(1, 20)))
        return ((0 if v9 else PRIVATE, number, size), None)
    element = draw(st.sampled_from(PLAIN[v9]))
    size = SIZES[element.type]
    if element.type.startswith(("unsigned", "signed")):
        size = draw(st.integers(1, size))
    elif element.type == "float64":
        size = draw(st.sampled_from([4, 8]))
    elif size == VARIABLE and (v9 or draw(st.booleans())):
        size = draw(st.integers(1, 40))
    return ((element.pen, element.id, size), element)


def _unique(drawn):
    columns = [e.column if e else f"{f[0]}.{f[1]}" for f, e in drawn]
    return len(set(columns)) == len(columns)


@st.composite
def octets(draw, field, element):
    """The octets of a value on the wire."""
    size = field[2]
    if element is None or element.type == "octetArray":
        n = draw(st.integers(0, 300)) if size == VARIABLE else size
        return draw(st.binary(min_size=n, max_size=n))
    if element.type == "string":
        text = draw(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=300))
        if size == VARIABLE:
            return text.encode()
        return text.encode()[:size].decode("utf-8", "ignore").encode().ljust(size, b"\0")
    if element.type == "boolean":
        return draw(st.sampled_from([b"\1", b"\2"]))
    return draw(st.binary(min_size=size, max_size=size))


def expected(element, data):
    """What the column has to hold, as Arrow gives it to Python; None: does not fit the column."""
    kind = element.type
    if kind.startswith(("unsigned", "mac")):
        value = int.from_bytes(data, "big")
        type_ = column_type(element.column)
        if type_ is not None and value >> type_.bit_width:
            return None
        return value
    if kind.startswith("signed"):
        return int.from_bytes(data, "big", signed=True)
    if kind.startswith("float"):
        return struct.unpack(">f" if len(data) == 4 else ">d", data)[0]
    if kind == "boolean":
        return data == b"\1"
    if kind == "string":
        return data.rstrip(b"\0").decode()
    if kind in ("ipv4Address", "ipv6Address"):
        address = ipaddress.ip_address(data)
        return address if address.version == 6 else ipaddress.ip_address(f"::ffff:{address}")
    return data


def equal(got, want, type_):
    if want is None:
        return got is None
    if isinstance(want, float):
        return got is not None and (got == want or (math.isnan(got) and math.isnan(want)))
    if type_ == ADDRESS:
        return got is not None and ipaddress.ip_address(got.bytes) == want
    return got == want


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_record_of_any_template_comes_out_as_it_went_in(data):
    v9 = data.draw(st.booleans(), "NetFlow v9")
    drawn = data.draw(st.lists(fields(v9), min_size=1, max_size=12).filter(_unique), "template")
    template = [f for f, _ in drawn]
    values = [
        [data.draw(octets(f, e)) for f, e in drawn]
        for _ in range(data.draw(st.integers(1, 5), "records"))
    ]
    # a variable-length record must not look like padding
    body = [builders.record(template, row) for row in values]
    if any(len(b) < 4 and not any(b) for b in body):
        return
    make = builders.v9 if v9 else builders.ipfix
    payloads = [make([builders.template_set(300, template, not v9)])]
    cut = data.draw(st.integers(0, len(body)), "records in the first datagram")
    for part in (body[:cut], body[cut:]):
        if part:
            joined = b"".join(part)
            # padding shorter than a record can be
            shortest = sum(1 if f[2] == VARIABLE else f[2] for f in template)
            pad = min(-len(joined) % 4, shortest - 1)
            payloads.append(make([builders.set_of(300, joined, pad)], sequence=len(payloads)))
    batch = DatagramBatch.from_payloads(payloads, received_ns=10**18)
    decoding = decoder()
    if data.draw(st.booleans(), "datagram by datagram"):
        rows = [
            row
            for i in range(len(batch))
            for row in flow_rows(decoding.decode(batch.select(slice(i, i + 1)), 10**18))
        ]
    else:
        rows = flow_rows(decoding.decode(batch, 10**18))
    assert len(rows) == len(values)
    for row, sent in zip(rows, values, strict=True):
        extra = dict(row.get("extra") or [])
        for (field, element), octet in zip(drawn, sent, strict=True):
            key = f"{field[0]}.{field[1]}"
            if element is None:
                assert extra[key] == octet.hex()
                continue
            want = expected(element, octet)
            got = row.get(element.column)
            assert equal(got, want, column_type(element.column) or _type(element)), element
            assert (extra.get(key) == octet.hex()) == (want is None), element


def _type(element):
    return ADDRESS if element.type.startswith("ipv") else None
