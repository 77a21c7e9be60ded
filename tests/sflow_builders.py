"""sFlow version 5 datagrams for tests, built from the specification's structures."""

from __future__ import annotations

import ipaddress
import struct


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def opaque(data: bytes) -> bytes:
    """A counted XDR string with its padding."""
    return words(len(data)) + data + bytes(-len(data) % 4)


def address(text: str | None) -> bytes:
    if text is None:
        return words(0)
    parsed = ipaddress.ip_address(text)
    return words(1 if parsed.version == 4 else 2) + parsed.packed


def datagram(
    *samples: bytes,
    agent: str | None = "192.0.2.1",
    sub_agent: int = 7,
    sequence: int = 100,
    count: int | None = None,
) -> bytes:
    head = words(5) + address(agent) + words(sub_agent, sequence, 123456)
    return head + words(len(samples) if count is None else count) + b"".join(samples)


def unit(format_: int, body: bytes, length: int | None = None, enterprise: int = 0) -> bytes:
    """A sample or a record: type, length (which may lie), value, padding."""
    size = len(body) if length is None else length
    return words(enterprise << 12 | format_, size) + body + bytes(-len(body) % 4)


def flow(
    *records: bytes,
    sequence: int = 1,
    source: int = 5,
    rate: int = 1000,
    pool: int = 5000,
    drops: int = 3,
    input_: int = 11,
    output: int = 12,
    count: int | None = None,
    length: int | None = None,
) -> bytes:
    count = len(records) if count is None else count
    head = words(sequence, source, rate, pool, drops, input_, output, count)
    return unit(1, head + b"".join(records), length)


def expanded_flow(
    *records: bytes,
    sequence: int = 1,
    source: tuple[int, int] = (0, 5),
    rate: int = 1000,
    input_: tuple[int, int] = (0, 11),
    output: tuple[int, int] = (0, 12),
) -> bytes:
    head = words(sequence, *source, rate, 5000, 3, *input_, *output, len(records))
    return unit(3, head + b"".join(records))


def discard(*records: bytes, drops: int = 9, reason: int = 256) -> bytes:
    return unit(5, words(1, 0, 5, drops, 11, 0, reason, len(records)) + b"".join(records))


def counter(*records: bytes, sequence: int = 1, source: int = 5) -> bytes:
    return unit(2, words(sequence, source, len(records)) + b"".join(records))


def expanded_counter(*records: bytes, source: tuple[int, int] = (0, 5)) -> bytes:
    return unit(4, words(1, *source, len(records)) + b"".join(records))


def raw_header(
    packet: bytes,
    protocol: int = 1,
    frame_length: int | None = None,
    header_length: int | None = None,
    length: int | None = None,
) -> bytes:
    frame_length = len(packet) + 4 if frame_length is None else frame_length
    header_length = len(packet) if header_length is None else header_length
    return unit(1, words(protocol, frame_length, 4, header_length) + packet, length)


def gateway(
    next_hop: str,
    own: int,
    source: int,
    source_peer: int,
    path: list[tuple[int, list[int]]],
    communities: list[int],
    local_pref: int,
) -> bytes:
    body = address(next_hop) + words(own, source, source_peer, len(path))
    for kind, members in path:
        body += words(kind, len(members), *members)
    return unit(1003, body + words(len(communities), *communities, local_pref))
