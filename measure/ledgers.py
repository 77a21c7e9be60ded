"""A node's ledger against the node's records: each stream of a load, exactly.

- received = stored + named losses, in datagrams, and what the ledger calls stored is in the store;
- what it calls lost on the way, by the sequence numbers, is what is truly missing between the first
  and the last datagram that the node has, in the protocol's unit. Before the first and after the
  last nothing can be said by one node: that is the other node's part, or nobody's.

IPFIX numbers records, and how many a datagram has is only known with its template. So what is lost
between two datagrams of which the first came before any template is not claimed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from appliance.drill.sendlog import Load
from appliance.drill.streams import I64, PROTOCOLS
from appliance.ledger.counters import COUNTERS, DISPOSITIONS
from measure.stored import Row

_NAMED_LOSSES = [COUNTERS[i].name for i in DISPOSITIONS if COUNTERS[i].name != "datagrams_decoded"]


@dataclass(frozen=True, slots=True)
class StreamLedger:
    """One stream at one node. Everything is in datagrams but ``units``."""

    protocol: str
    received: int
    """By the ledger."""
    stored: int
    """In the store, each as often as it is there."""
    named_losses: dict[str, int]
    """Received, but not decoded: by disposition."""
    first: int
    """Number of the first that is stored, within the stream."""
    last: int
    missing: int
    """Between them."""
    sequence_lost: int
    """By the ledger, in the protocol's unit."""
    units: int
    """Units that a datagram counts for."""
    duplicates: int
    reordered: int
    restarts: int
    problems: list[str]
    """What is not as it has to be."""


def check_stream(
    load: Load, protocol: str, row: Row | None, times_stored: I64, rows: int
) -> StreamLedger | None:
    """Check one stream; None if the node has nothing of it.

    ``times_stored``: how often each datagram of the stream is in the store, in whole; ``rows``: the
    stream's records there.
    """
    had = np.flatnonzero(times_stored)
    if row is None:
        if not rows:
            return None
        row = {counter.name: 0 for counter in COUNTERS}
    units = PROTOCOLS[protocol].units(load.records)
    named = {name.removeprefix("datagrams_"): int(row[name]) for name in _NAMED_LOSSES if row[name]}
    stored = int(times_stored.sum())
    gaps = np.diff(had) - 1
    known = _counted(load, protocol, had)
    result = StreamLedger(
        protocol=protocol,
        received=int(row["datagrams_received"]),
        stored=stored,
        named_losses=named,
        first=int(had[0]) if len(had) else -1,
        last=int(had[-1]) if len(had) else -1,
        missing=int(gaps.sum()),
        sequence_lost=int(row["sequence_lost"]),
        units=units,
        duplicates=int(row["sequence_duplicates"]),
        reordered=int(row["sequence_reordered"]),
        restarts=int(row["sequence_restarts"]),
        problems=[],
    )
    not_stored = sum(named.values())
    equal = [
        ("records stored by the ledger, and in the store", int(row["records_stored"]), rows),
        ("datagrams received, and stored or named losses", result.received, stored + not_stored),
        ("datagrams twice by the ledger, and in the store", result.duplicates, stored - len(had)),
        ("restarts of the numbering, of which there are none", result.restarts, 0),
    ]
    result.problems.extend(
        f"{what}: {one} and {other}" for what, one, other in equal if one != other
    )
    # a named loss has arrived, though it is not in the store
    least = max(int(gaps[known].sum()) - not_stored, 0) * units
    most = result.missing * units
    if not least <= result.sequence_lost <= most:
        claim = f"{least}" if least == most else f"{least} to {most}"
        result.problems.append(
            f"lost on the way by the ledger: {result.sequence_lost} units; "
            f"missing between the first and the last datagram: {claim}"
        )
    return result


def _counted(load: Load, protocol: str, had: I64) -> slice:
    """The gaps that the ledger can measure."""
    stated = PROTOCOLS[protocol]
    if not (stated.has_templates and stated.numbers_records):
        return slice(None)
    with_template = had % load.template_every == 0
    return slice(int(np.argmax(with_template)) if with_template.any() else len(had), None)
