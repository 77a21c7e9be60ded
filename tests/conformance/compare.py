"""Golden records against decoded ones, packet by packet and field by field."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.conformance.corpus import Record

ABOUT_THE_GOLDEN = {"ref"}
"""Keys that say how the golden record was made."""
TIMES = {"start_ms", "end_ms"}


@dataclass(frozen=True)
class Deviation:
    """One difference; ``field`` is ``record`` for a record that is missing or too much."""

    packet: int
    field: str
    expected: object
    got: object

    def __str__(self) -> str:
        if self.field == "record":
            what, record = ("missing", self.expected) if self.got is None else ("extra", self.got)
            return f"packet {self.packet}: {what} record {record}"
        return f"packet {self.packet}: {self.field}: expected {self.expected!r}, got {self.got!r}"


@dataclass
class Result:
    """Counts of one comparison."""

    expected: int = 0
    found: int = 0
    allowed_extra: int = 0
    """Decoded records without a golden one that the rules of the corpus allow."""
    compared: int = 0
    equal: int = 0
    deviations: list[Deviation] = field(default_factory=list)


Differences = Callable[[Record, Record], tuple[int, list[tuple[str, object, object]]]]
"""Of a golden and a decoded record: fields compared, and those that differ."""


def flow_differences(
    golden: Record, decoded: Record
) -> tuple[int, list[tuple[str, object, object]]]:
    """Every golden field, under the rules of the corpus.

    Times of exporters with a broken clock are not compared. Of an element that a template repeats,
    both values are right. An IPv4-mapped IPv6 address is the IPv4 address (RFC 4291, 2.5.5.2).
    """
    compared = 0
    different = []
    for key, value in golden.items():
        if key in ABOUT_THE_GOLDEN or (key in TIMES and golden.get("uptime_lt_switched")):
            continue
        compared += 1
        got = decoded.get(key)
        same = type(got) is type(value) and got in (value, _unmapped(value))
        if not same and not (f"{key}_2" in golden and got == golden[f"{key}_2"]):
            different.append((key, value, got))
    return compared, different


def _unmapped(value: object) -> object:
    """``192.0.2.1`` of ``::ffff:c000:201``; other values as they are."""
    if isinstance(value, str) and value.startswith("::ffff:"):
        try:
            return str(ipaddress.IPv6Address(value).ipv4_mapped)
        except ValueError:
            return value
    return value


def compare(
    golden: dict[int, list[Record]],
    decoded: dict[int, list[Record]],
    differences: Differences = flow_differences,
    allowed: Callable[[Record], bool] = lambda record: False,
) -> Result:
    """Compare all packets; ``allowed`` says of an extra record whether it may be there."""
    result = Result()
    for packet in sorted(golden.keys() | decoded.keys()):
        want, have = golden.get(packet, []), decoded.get(packet, [])
        result.expected += len(want)
        result.found += len(have)
        pairs, missing, extra = _pair(want, have, differences)
        for one, other in pairs:
            compared, different = differences(one, other)
            result.compared += compared
            result.equal += compared - len(different)
            result.deviations += [Deviation(packet, *d) for d in different]
        result.deviations += [Deviation(packet, "record", m, None) for m in missing]
        for record in extra:
            if allowed(record):
                result.allowed_extra += 1
            else:
                result.deviations.append(Deviation(packet, "record", None, record))
    return result


def _pair(
    want: list[Record], have: list[Record], differences: Differences
) -> tuple[list[tuple[Record, Record]], list[Record], list[Record]]:
    """Pair the records of one packet: equal ones first, then those that differ least."""
    left = list(range(len(have)))
    pairs: list[tuple[Record, Record]] = []
    unequal: list[Record] = []
    for record in want:
        # nearly always the first one that is left
        match = next((i for i in left if not differences(record, have[i])[1]), None)
        if match is None:
            unequal.append(record)
        else:
            left.remove(match)
            pairs.append((record, have[match]))
    missing: list[Record] = []
    for record in unequal:
        best = min(left, key=lambda i: len(differences(record, have[i])[1]), default=None)
        if best is None or not _related(record, have[best], differences):
            missing.append(record)
            continue
        left.remove(best)
        pairs.append((record, have[best]))
    return pairs, missing, [have[i] for i in left]


def _related(golden: Record, decoded: Record, differences: Differences) -> bool:
    """Whether two records are the same one with differences: at least half of it agrees."""
    compared, different = differences(golden, decoded)
    return 2 * len(different) <= compared


def by_packet(records: Iterable[Record]) -> dict[int, list[Record]]:
    """Records by their packet, in order."""
    found: dict[int, list[Record]] = {}
    for record in records:
        found.setdefault(record["packet"], []).append(record)
    return found
