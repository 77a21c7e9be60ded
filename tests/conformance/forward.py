"""What a single forward pass cannot decode: data sets that come before their template.

The golden records are those of one pass that keeps nothing back, as tshark does it. A collector
that holds data until its template comes emits more; this walk over headers and sets, independent of
the decoder, says for which packets and templates that is right.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from appliance.offline.capture import CaptureBatch

_TEMPLATES = {9: (0, 1), 10: (2, 3)}
_HEADER = {9: 20, 10: 16}
_DOMAIN = {9: 16, 10: 12}

Early = set[tuple[int, str, int, int]]


def early(batches: Iterable[CaptureBatch]) -> Early:
    """(packet, exporter, domain, template) of data sets before the first template of theirs."""
    known: set[tuple[str, int, int, int]] = set()
    found: Early = set()
    for batch in batches:
        rows = batch.datagrams
        for i in range(len(rows)):
            payload = rows.payload(i)
            version = int.from_bytes(payload[:2], "big")
            if version not in _TEMPLATES or len(payload) < _HEADER[version]:
                continue
            at = _DOMAIN[version]
            domain = int.from_bytes(payload[at : at + 4], "big")
            address = ipaddress.IPv6Address(rows.address[i].tobytes())
            exporter = str(address.ipv4_mapped or address)
            for number, body in _sets(payload, _HEADER[version]):
                if number in _TEMPLATES[version]:
                    options = number == _TEMPLATES[version][1]
                    known |= {
                        (exporter, version, domain, t) for t in _defined(version, options, body)
                    }
                elif number > 255 and (exporter, version, domain, number) not in known:
                    found.add((int(batch.frame[i]), exporter, domain, number))
    return found


def _sets(payload: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + 4 <= len(payload):
        number = int.from_bytes(payload[at : at + 2], "big")
        size = int.from_bytes(payload[at + 2 : at + 4], "big")
        if size < 4:
            return
        yield number, payload[at + 4 : at + size]
        at += size


def _defined(version: int, options: bool, body: bytes) -> Iterator[int]:
    """Template ids that a template set defines."""
    at = 0
    while at + 4 <= len(body):
        number = int.from_bytes(body[at : at + 2], "big")
        count = int.from_bytes(body[at + 2 : at + 4], "big")
        if number < 256:
            return
        at += 4
        if options and version == 9:
            others = int.from_bytes(body[at : at + 2], "big")
            at += 2
            count = (count + others) // 4
        elif options:
            at += 2
        for _ in range(count):
            at += 8 if version == 10 and at < len(body) and body[at] & 0x80 else 4
        if at <= len(body):
            yield number
