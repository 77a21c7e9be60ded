"""What the ledger counts of each source: one table, of which columns, metrics and help texts come.

A source is an exporter, an export protocol and an observation domain. Every datagram received has
exactly one disposition, so the counters marked so add up to ``datagrams_received``; and every
record decoded is stored or dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.decode.context import Status


@dataclass(frozen=True, slots=True)
class Counter:
    """One counter. ``help`` is a sentence for an operator, without a full stop."""

    name: str
    unit: str
    help: str
    status: Status | None = None
    """The datagrams that it counts as they are decoded, where it counts by status."""
    disposition: bool = False
    """Whether it is one of the dispositions that add up to ``datagrams_received``."""
    falls: bool = False
    """Whether it may fall: then it is a gauge, not a counter, to a metrics system."""


def _datagrams(name: str, help_: str, status: Status | None = None, falls: bool = False) -> Counter:
    return Counter(f"datagrams_{name}", "datagrams", help_, status, disposition=True, falls=falls)


COUNTERS: tuple[Counter, ...] = (
    Counter("datagrams_received", "datagrams", "Datagrams taken from the journal"),
    Counter("bytes_received", "bytes", "Payload of these datagrams"),
    _datagrams("decoded", "Datagrams of which everything was understood", Status.DECODED),
    _datagrams(
        "held",
        "Datagrams that wait for a template now, all or a part of them",
        Status.HELD,
        falls=True,
    ),
    _datagrams("expired", "Datagrams given up because their template did not come in time"),
    _datagrams("evicted", "Datagrams given up because too much waited for templates"),
    _datagrams("malformed_header", "Datagrams too short for their header", Status.MALFORMED_HEADER),
    _datagrams(
        "malformed_length",
        "Datagrams with a length or count that is not possible; what precedes it is decoded",
        Status.MALFORMED_LENGTH,
    ),
    _datagrams(
        "malformed_template",
        "Datagrams with a template that is not valid; the rest of them is decoded",
        Status.MALFORMED_TEMPLATE,
    ),
    _datagrams(
        "malformed_data",
        "Datagrams with data that does not fit its set or sample; the rest of them is decoded",
        Status.MALFORMED_DATA,
    ),
    _datagrams(
        "over_limit", "Datagrams refused, or cut, by a limit of this node", Status.OVER_LIMIT
    ),
    _datagrams(
        "unknown_version", "Datagrams of no export protocol known here", Status.UNKNOWN_VERSION
    ),
    _datagrams("refused", "Datagrams of exporters that are not allowed", Status.REFUSED),
    Counter("records_decoded", "records", "Flow records found in datagrams"),
    Counter("records_stored", "records", "Flow records in segments that are safely on disk"),
    Counter("records_dropped", "records", "Flow records decoded but given up before being stored"),
    Counter("options_decoded", "records", "Options data records found in datagrams"),
    Counter("counters_decoded", "records", "Counter samples found in datagrams"),
    Counter("sequence_received", "datagrams", "Datagrams that had a sequence number"),
    Counter(
        "sequence_lost",
        "units",
        "Flow records (NetFlow v5, v7), data records (IPFIX) or datagrams (NetFlow v9, sFlow) that "
        "the exporter sent and that never arrived, by its own numbering",
        falls=True,
    ),
    Counter(
        "sequence_duplicates",
        "datagrams",
        "Datagrams that had arrived before, by their number",
        falls=True,
    ),
    Counter(
        "sequence_reordered", "datagrams", "Datagrams that arrived after a later one", falls=True
    ),
    Counter(
        "sequence_restarts",
        "restarts",
        "Times that the exporter began its numbering anew",
        falls=True,
    ),
)

NUMBER: dict[str, int] = {counter.name: i for i, counter in enumerate(COUNTERS)}
"""The column of each counter in the ledger's array."""

DISPOSITIONS: tuple[int, ...] = tuple(NUMBER[c.name] for c in COUNTERS if c.disposition)

BY_STATUS: dict[Status, int] = {c.status: NUMBER[c.name] for c in COUNTERS if c.status is not None}
