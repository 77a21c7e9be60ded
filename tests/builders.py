"""Export datagrams, as bytes: NetFlow v5 and v9, IPFIX and sFlow v5.

A template field is ``(pen, id, length)``; 65535 is a variable length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

Field = tuple[int, int, int]
VARIABLE = 65535

SENTINEL_ADDRESSES = (bytes([203, 0, 113, 99]), bytes([203, 0, 113, 100]))


def v5(
    records: Iterable[bytes] = (),
    *,
    count: int | None = None,
    uptime: int = 600_000,
    seconds: int = 1_700_000_000,
    sequence: int = 0,
    sampling: int = 0,
) -> bytes:
    """NetFlow v5 of records made by :func:`v5_record`."""
    records = list(records)
    count = len(records) if count is None else count
    head = (5, count, uptime, seconds, 0, sequence, 0, 0, sampling)
    return struct.pack(">HHIIIIBBH", *head) + b"".join(records)


def v5_record(
    source: bytes = SENTINEL_ADDRESSES[0],
    target: bytes = SENTINEL_ADDRESSES[1],
    *,
    packets: int = 42,
    octets: int = 424242,
    first: int = 1000,
    last: int = 2000,
) -> bytes:
    """One record of 48 octets."""
    numbers = (1, 2, packets, octets, first, last, 1234, 80, 0, 0x18, 6, 0, 64496, 64497, 24, 16, 0)
    return source + target + bytes(4) + struct.pack(">HHIIIIHHBBBBHHBBH", *numbers)


def set_of(number: int, body: bytes, pad: int = 0) -> bytes:
    """A set (v9: flow set) with its header."""
    return struct.pack(">HH", number, 4 + len(body) + pad) + body + bytes(pad)


def specifiers(fields: Sequence[Field], ipfix: bool) -> bytes:
    """Field specifiers; the enterprise number only exists in IPFIX."""
    out = b""
    for pen, number, length in fields:
        if ipfix and pen:
            out += struct.pack(">HHI", number | 0x8000, length, pen)
        else:
            out += struct.pack(">HH", number, length)
    return out


def template(number: int, fields: Sequence[Field], ipfix: bool) -> bytes:
    """A template record, without its set."""
    return struct.pack(">HH", number, len(fields)) + specifiers(fields, ipfix)


def template_set(number: int, fields: Sequence[Field], ipfix: bool) -> bytes:
    """A set with one template."""
    return set_of(2 if ipfix else 0, template(number, fields, ipfix))


def options_set(
    number: int, scopes: Sequence[Field], fields: Sequence[Field], ipfix: bool
) -> bytes:
    """A set with one options template."""
    both = specifiers([*scopes, *fields], ipfix)
    if ipfix:
        head = struct.pack(">HHH", number, len(scopes) + len(fields), len(scopes))
    else:
        head = struct.pack(">HHH", number, 4 * len(scopes), 4 * len(fields))
    body = head + both
    return set_of(3 if ipfix else 1, body, -len(body) % 4)


def value(field: Field, octets: bytes) -> bytes:
    """A value in a data record, with its length in front where the field's is variable."""
    if field[2] != VARIABLE:
        assert len(octets) == field[2]
        return octets
    if len(octets) < 255:
        return bytes([len(octets)]) + octets
    return b"\xff" + struct.pack(">H", len(octets)) + octets


def record(fields: Sequence[Field], values: Sequence[bytes]) -> bytes:
    """A data record."""
    return b"".join(value(f, v) for f, v in zip(fields, values, strict=True))


def v9(
    sets: Iterable[bytes],
    *,
    domain: int = 0,
    sequence: int = 0,
    count: int | None = None,
    uptime: int = 600_000,
    seconds: int = 1_700_000_000,
) -> bytes:
    """A NetFlow v9 packet; ``count`` is that of its sets unless given."""
    sets = list(sets)
    count = len(sets) if count is None else count
    return struct.pack(">HHIIII", 9, count, uptime, seconds, sequence, domain) + b"".join(sets)


def ipfix(
    sets: Iterable[bytes],
    *,
    domain: int = 0,
    sequence: int = 0,
    length: int | None = None,
    seconds: int = 1_700_000_000,
) -> bytes:
    """An IPFIX message; ``length`` is right unless given."""
    body = b"".join(sets)
    length = 16 + len(body) if length is None else length
    return struct.pack(">HHIII", 10, length, seconds, sequence, domain) + body


def sflow(
    samples: Iterable[bytes],
    *,
    agent: bytes = bytes([192, 0, 2, 7]),
    domain: int = 0,
    sequence: int = 1,
    uptime: int = 600_000,
    count: int | None = None,
) -> bytes:
    """An sFlow v5 datagram."""
    samples = list(samples)
    count = len(samples) if count is None else count
    kind = 1 if len(agent) == 4 else 2
    return (
        struct.pack(">II", 5, kind)
        + agent
        + struct.pack(">IIII", domain, sequence, uptime, count)
        + b"".join(samples)
    )


def tagged(kind: int, body: bytes) -> bytes:
    """A sample or a record of sFlow: its format, length and body, filled to words."""
    body += bytes(-len(body) % 4)
    return struct.pack(">II", kind, len(body)) + body


def raw_header(frame: bytes, *, protocol: int = 1, length: int | None = None) -> bytes:
    """The sampled header record of sFlow (format 1)."""
    length = len(frame) + 4 if length is None else length
    return tagged(1, struct.pack(">IIII", protocol, length, 4, len(frame)) + frame)


def flow_sample(
    records: Sequence[bytes],
    *,
    sequence: int = 1,
    rate: int = 512,
    pool: int = 1024,
    in_if: int = 3,
    out_if: int = 4,
    expanded: bool = False,
) -> bytes:
    """A flow sample (format 1), or an expanded one (format 3)."""
    if expanded:
        head = (sequence, 0, in_if, rate, pool, 0, 0, in_if, 0, out_if, len(records))
        return tagged(3, struct.pack(">11I", *head) + b"".join(records))
    head = (sequence, in_if, rate, pool, 0, in_if, out_if, len(records))
    return tagged(1, struct.pack(">8I", *head) + b"".join(records))


def counter_sample(records: Sequence[bytes], *, sequence: int = 1, index: int = 3) -> bytes:
    """A counter sample (format 2)."""
    return tagged(2, struct.pack(">III", sequence, index, len(records)) + b"".join(records))
