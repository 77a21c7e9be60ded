"""What a node's ledger says of every exporter, and how that changed in the course of a drill."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.ledger.counters import COUNTERS, DISPOSITIONS
from appliance.schema import DRILL_DOMAINS
from appliance.state import LedgerView

COUNTED = ("datagrams_received", "records_stored", "sequence_lost", "sequence_duplicates")
NAMED_LOSSES = tuple(
    COUNTERS[i].name
    for i in DISPOSITIONS
    if COUNTERS[i].name not in ("datagrams_decoded", "datagrams_held")
)
"""Dispositions of datagrams that are not stored, and will not be."""

Source = tuple[str, str, int]
"""Exporter, protocol and observation domain."""
Account = dict[Source, tuple[int, ...]]
"""Of each source :data:`COUNTED`, then the sum of :data:`NAMED_LOSSES`."""


def account(view: LedgerView) -> list[list[str | int]]:
    """The ledger, in short, for another node."""
    table = view.table
    names = ["exporter", "protocol", "domain", *COUNTED, *NAMED_LOSSES]
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    keep = 3 + len(COUNTED)
    return [[*row[:keep], sum(row[keep:])] for row in rows]


def read_account(rows: list[list[str | int]]) -> Account:
    """What :func:`account` made."""
    return {(str(row[0]), str(row[1]), int(row[2])): tuple(int(v) for v in row[3:]) for row in rows}


@dataclass(frozen=True, slots=True)
class Change:
    """What was added to a source's counters on a node between two looks."""

    source: Source
    received: int
    """Datagrams."""
    stored: int
    """Flow records."""
    sequence_lost: int
    """In the protocol's unit, by the exporter's own numbers; falls when late datagrams come."""
    duplicates: int
    named_losses: int
    """Datagrams that came and are not stored, with a reason."""

    @property
    def of_drill(self) -> bool:
        """Whether the source is a drill's load."""
        return self.source[2] in DRILL_DOMAINS


def changes(before: Account, after: Account) -> list[Change]:
    """Sources whose counters differ."""
    none = (0,) * (len(COUNTED) + 1)
    found = []
    for source, now in after.items():
        then = before.get(source, none)
        if now != then:
            found.append(Change(source, *(b - a for a, b in zip(then, now, strict=True))))
    return found
