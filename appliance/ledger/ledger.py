"""The ledger of one shard: counters of every source, which must balance."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from appliance.decode import Decoded
from appliance.decode.context import Status
from appliance.decode.sources import SourceTable
from appliance.ledger.counters import BY_STATUS, COUNTERS, DISPOSITIONS, NUMBER
from appliance.ledger.sequence import SequenceTracker, to_ipc
from appliance.schema import ExportProtocol

I64 = NDArray[np.int64]

KEYS = ["exporter", "protocol", "domain"]
"""The columns of :meth:`Ledger.table` that name a source: address text, protocol name, number."""

_CANARIES = b"canaries"
_BY_STATUS = np.array([BY_STATUS[status] for status in Status], np.int64)


@dataclass(frozen=True, slots=True)
class Imbalance:
    """Two figures of the ledger that should be equal and are not."""

    source: int | None
    """None: of all sources together."""
    what: str
    expected: int
    found: int

    def __str__(self) -> str:
        where = "all sources" if self.source is None else f"source {self.source}"
        return f"{where}: {self.what}: {self.expected} expected, {self.found} found"


class Ledger:
    """Counters by source, a row each; columns as in :data:`~appliance.ledger.counters.COUNTERS`."""

    def __init__(self) -> None:
        self._counts = np.zeros((0, len(COUNTERS)), np.int64)
        self._sources = 0
        self._tracker = SequenceTracker()
        self.canaries = 0
        """Datagrams that the node sent to itself (appliance.health): they have no source."""

    def __len__(self) -> int:
        """Sources known."""
        return self._sources

    @property
    def counts(self) -> I64:
        """``int64 (sources, counters)``: a view; for reading."""
        return self._counts[: self._sources]

    def _grow(self, sources: int) -> None:
        if sources > len(self._counts):
            bigger = np.zeros((max(sources, 2 * len(self._counts), 64), len(COUNTERS)), np.int64)
            bigger[: self._sources] = self.counts
            self._counts = bigger
        self._sources = max(self._sources, sources)

    def add_decoded(self, decoded: Decoded) -> None:
        """Count everything that one call of the decoder gave."""
        source = decoded.source
        if len(source):
            self._grow(int(source.max()) + 1)
            first = source * len(COUNTERS)
            flat = self._counts.reshape(-1)
            np.add.at(flat, first + NUMBER["datagrams_received"], 1)
            np.add.at(flat, first + NUMBER["bytes_received"], decoded.length)
            np.add.at(flat, first + _BY_STATUS[decoded.status], 1)
            np.add.at(flat, first + NUMBER["records_decoded"], decoded.records)
            for datagram in decoded.counter_datagram:
                np.add.at(flat, first[datagram] + NUMBER["counters_decoded"], 1)
            self._track(decoded)
        for record in decoded.options_records:
            self.add("options_decoded", record.source)
        for (number, status), amount in decoded.released.items():
            self._leave_hold(number, amount, COUNTERS[BY_STATUS[status]].name)
        for number, amount in decoded.expired.items():
            self._leave_hold(number, amount, "datagrams_expired")
        for number, amount in decoded.evicted.items():
            self._leave_hold(number, amount, "datagrams_evicted")
        for number, amount in decoded.released_records.items():
            self.add("records_decoded", number, amount)

    def _leave_hold(self, source: int, amount: int, disposition: str) -> None:
        self.add("datagrams_held", source, -amount)
        self.add(disposition, source, amount)

    def _track(self, decoded: Decoded) -> None:
        change = self._tracker.track(decoded.source, decoded.sequence, decoded.sequence_units)
        for what in ("received", "lost", "duplicates", "reordered", "restarts"):
            # each source is there once
            self._counts[change.source, NUMBER[f"sequence_{what}"]] += getattr(change, what)

    def add(self, name: str, source: int, amount: int = 1) -> None:
        """Add to one counter of one source."""
        self._grow(source + 1)
        self._counts[source, NUMBER[name]] += amount

    def stored(self) -> None:
        """All records decoded so far, but those dropped, are on disk now."""
        self.counts[:, NUMBER["records_stored"]] = self._storable()

    def _storable(self) -> I64:
        counts = self.counts
        storable: I64 = counts[:, NUMBER["records_decoded"]] - counts[:, NUMBER["records_dropped"]]
        return storable

    def total(self, name: str) -> int:
        """One counter, of all sources together."""
        return int(self.counts[:, NUMBER[name]].sum())

    def balance(
        self, pending_records: int = 0, journal_datagrams: int | None = None
    ) -> list[Imbalance]:
        """What does not add up; empty when all is well.

        ``pending_records``: rows in memory, decoded but not stored yet. ``journal_datagrams``: what
        the journal has handed over, counted by itself.
        """
        counts = self.counts
        received = counts[:, NUMBER["datagrams_received"]]
        disposed = counts[:, DISPOSITIONS].sum(axis=1)
        decoded, stored, dropped = (
            counts[:, NUMBER[f"records_{what}"]] for what in ("decoded", "stored", "dropped")
        )
        found = [
            Imbalance(int(i), "datagrams received and their dispositions", *pair)
            for i in np.flatnonzero(received != disposed)
            for pair in ((int(received[i]), int(disposed[i])),)
        ]
        found += [
            Imbalance(int(i), "datagrams held", 0, int(counts[i, NUMBER["datagrams_held"]]))
            for i in np.flatnonzero(counts[:, NUMBER["datagrams_held"]] < 0)
        ]
        pending = int((decoded - stored - dropped).sum())
        if pending != pending_records:
            found.append(Imbalance(None, "records not stored yet", pending_records, pending))
        taken = int(received.sum()) + self.canaries
        if journal_datagrams is not None and journal_datagrams != taken:
            found.append(
                Imbalance(None, "datagrams taken from the journal", journal_datagrams, taken)
            )
        return found

    def table(self, sources: SourceTable) -> pa.Table:
        """A row for each source that has received anything; see :data:`KEYS` for its keys."""
        used = np.flatnonzero(self.counts[:, NUMBER["datagrams_received"]])
        of = [sources.sources[i] for i in used.tolist()]
        columns: dict[str, pa.Array] = {
            "exporter": pa.array([_text(sources.addresses[s.exporter]) for s in of], pa.string()),
            "protocol": pa.array([ExportProtocol(s.protocol).name for s in of], pa.string()),
            "domain": pa.array([s.domain for s in of], pa.uint32()),
        }
        for i, counter in enumerate(COUNTERS):
            columns[counter.name] = pa.array(self._counts[used, i])
        return pa.table(columns)

    def dump(self) -> bytes:
        """Everything, compactly; source numbers mean what they mean in the SourceTable.

        As after :meth:`stored`: a dump belongs to the checkpoint that makes the records durable.
        """
        columns = {
            counter.name: pa.array(_narrow(self.counts[:, i])) for i, counter in enumerate(COUNTERS)
        }
        columns["records_stored"] = pa.array(_narrow(self._storable()))
        table = pa.table(columns).replace_schema_metadata({_CANARIES: str(self.canaries)})
        counts = to_ipc(table)
        return len(counts).to_bytes(8, "little") + counts + self._tracker.dump()

    def load(self, dumped: bytes) -> None:
        """Restore what :meth:`dump` gave, perhaps of a version with other counters."""
        size = 8 + int.from_bytes(dumped[:8], "little")
        table = pa.ipc.open_stream(dumped[8:size]).read_all()
        self._counts = np.zeros((0, len(COUNTERS)), np.int64)
        self._sources = 0
        self._grow(len(table))
        for name in table.column_names:
            if name in NUMBER:
                self._counts[: len(table), NUMBER[name]] = table.column(name).to_numpy()
        # those before canaries have no metadata
        self.canaries = int((table.schema.metadata or {}).get(_CANARIES, 0))
        self._tracker.load(dumped[size:])


def merge(tables: Iterable[pa.Table]) -> pa.Table:
    """Tables of several shards as one: a row for each exporter, protocol and domain."""
    whole = pa.concat_tables(tables)
    sums = whole.group_by(KEYS).aggregate([(c.name, "sum") for c in COUNTERS])
    named = sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names])
    return named.sort_by([(key, "ascending") for key in KEYS])


def _narrow(values: I64) -> NDArray[np.signedinteger]:
    """``values`` in the smallest signed type that has room: most counters are small or 0."""
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    for dtype in (np.int8, np.int16, np.int32):
        limits = np.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return values.astype(dtype)
    return values


def _text(octets: bytes) -> str:
    address = ipaddress.IPv6Address(octets)
    return str(address.ipv4_mapped or address)
