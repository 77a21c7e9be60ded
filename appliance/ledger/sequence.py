"""Loss, duplicates, reordering and restarts, from the exporters' own sequence numbers.

What a number counts is the protocol's matter, and so is the unit of loss: NetFlow v5 and v7 number
flow records, v9 (RFC 3954, 5.1) and sFlow datagrams, IPFIX (RFC 7011, 3.1) data records. All are 32
bits wide. The caller says for each datagram by how much the next number should be larger.

A datagram covers the numbers ``start`` to ``start + units``. In order means that it starts where
the last one ended. Batches that are in order, nearly all, take a fixed number of NumPy operations;
only the datagrams where order breaks are looked at one by one:

- ahead: the numbers between are lost, and remembered as a gap;
- late, in a gap: reordered; what it fills is lost no more;
- late, elsewhere: a duplicate;
- far away in either direction: a stray, until a second datagram goes on from it. Then it is a
  restart of the exporter, or a long loss, until the old numbering goes on: then the source has
  several (two processes with the same domain), which are followed side by side;
- eight duplicates in a row, each continuing the one before: a restart soon after a start.

Exporters disagree on IPFIX: some number their messages, and some (softflowd) send the number after
the message's records instead of before. Both would look like permanent loss, so the convention is
learnt for each source, and what was claimed before it was learnt is taken back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from appliance.ledger.numbering import I64, MASK, Bools, Convention, Events
from appliance.ledger.walk import Trouble, Walk


@dataclass(slots=True)
class Change:
    """What one batch adds to the counters: ``int64``, one entry for each source it has."""

    source: I64
    received: I64
    lost: I64
    """In the protocol's unit; negative where late datagrams fill the gaps of earlier batches."""
    duplicates: I64
    reordered: I64
    restarts: I64


_STATE: dict[str, tuple[type[Any], int]] = {
    "position": (np.int64, -1),  # where the next datagram should start, unwrapped; -1: none yet
    "floor": (np.int64, 0),  # the first number seen since the start or the last restart, unwrapped
    "vague": (np.bool_, 0),  # the last datagram's units were not known
    "largest": (np.int64, 1),  # the most units that one datagram had
    "last_sequence": (np.int64, -1),
    "last_units": (np.int64, -1),
    "convention": (np.uint8, Convention.BEFORE),
    "proven": (np.bool_, 0),  # datagrams in order, of different units, speak for the convention
}


class SequenceTracker:
    """Follows the numbering of every source; sources are dense numbers (see decode.sources)."""

    def __init__(self) -> None:
        self._n = 0
        self._state: dict[str, NDArray[Any]] = {
            name: np.zeros(0, dtype) for name, (dtype, _) in _STATE.items()
        }
        self._trouble: dict[int, Trouble] = {}
        self._suspect: Bools = np.zeros(0, np.bool_)

    def _grow(self, n: int) -> None:
        """Make room for sources 0 to ``n - 1``."""
        if n <= self._n:
            return
        size = max(n, 2 * self._n, 64)
        for name, (dtype, initial) in _STATE.items():
            bigger = np.full(size, initial, dtype)
            bigger[: self._n] = self._state[name][: self._n]
            self._state[name] = bigger
        suspect = np.zeros(size, np.bool_)
        suspect[: self._n] = self._suspect[: self._n]
        self._suspect = suspect
        self._n = size

    def track(self, source: I64, sequence: I64, units: I64) -> Change:
        """Follow ``n`` datagrams in order of arrival.

        ``sequence`` is the header's number, ``units`` by how much the next one should be larger.
        Datagrams with source or sequence -1 are passed over; units -1 are not known: then the next
        number may be larger by anything.
        """
        numbered = (source >= 0) & (sequence >= 0)
        if not numbered.all():
            source, sequence, units = source[numbered], sequence[numbered], units[numbered]
        n = len(source)
        if not n:
            nothing = np.zeros(0, np.int64)
            return Change(nothing, nothing, nothing, nothing, nothing, nothing)
        self._grow(int(source.max()) + 1)
        order = np.argsort(source, kind="stable")
        source, sequence, units = source[order], sequence[order], units[order]
        head = np.empty(n, np.bool_)
        head[0] = True
        np.not_equal(source[1:], source[:-1], out=head[1:])
        first = np.flatnonzero(head)
        events = Events(self._state, source, sequence, units, first)

        last = np.append(first[1:], n) - 1
        own = source[first]
        position = self._state["position"]
        unordered = np.logical_or.reduceat(~events.ordered, first) | self._suspect[own]
        calm = ~unordered
        mine, at, end = own[calm], position[own[calm]], events.end[last[calm]]
        begin = events.start[first[calm]]
        self._state["floor"][mine] = np.where(at < 0, begin, self._state["floor"][mine])
        at = np.where(at < 0, begin, at)
        position[mine] = at + ((end - at) & MASK)
        self._state["vague"][mine] = events.vague[last[calm]]
        self._prove(events, first)
        largest = np.maximum.reduceat(events.step, first)
        self._state["largest"][own] = np.maximum(self._state["largest"][own], largest)

        change = Change(own, last - first + 1, *(np.zeros(len(own), np.int64) for _ in range(4)))
        for i in np.flatnonzero(unordered).tolist():
            trouble = self._trouble.setdefault(int(own[i]), Trouble())
            before = trouble.totals.copy()
            Walk(self._state, int(own[i]), trouble).run(events, int(first[i]), int(last[i]))
            self._suspect[own[i]] = trouble.run > 0
            after = trouble.totals
            change.lost[i] = after.lost - before.lost
            change.duplicates[i] = after.duplicates - before.duplicates
            change.reordered[i] = after.reordered - before.reordered
            change.restarts[i] = after.restarts - before.restarts
        self._state["last_sequence"][own] = sequence[last]
        self._state["last_units"][own] = units[last]
        return change

    def _prove(self, events: Events, first: I64) -> None:
        """Note whose convention is proven: its datagrams are in order although their units vary."""
        units = events.units
        if (units == units[0]).all():
            return
        before = np.empty_like(units)
        before[1:] = units[:-1]
        before[first] = self._state["last_units"][events.source[first]]
        proof = events.ordered & (units != before) & (units >= 0) & (before >= 0)
        self._state["proven"][events.source[proof]] = True

    def convention(self, source: int) -> Convention:
        """What the numbers of ``source`` stand for, as far as is known."""
        if source >= self._n:
            return Convention.BEFORE
        return Convention(int(self._state["convention"][source]))

    def dump(self) -> bytes:
        """Everything that a restart must not forget: Arrow IPC, a row for each source."""
        used = int(np.flatnonzero(self._state["position"] >= 0).max(initial=-1)) + 1
        gaps = json.dumps({n: t.gaps for n, t in self._trouble.items() if t.gaps})
        table = pa.table(
            {name: pa.array(values[:used]) for name, values in self._state.items()}
        ).replace_schema_metadata({"gaps": gaps})
        return to_ipc(table)

    def load(self, dumped: bytes) -> None:
        """Restore what :meth:`dump` gave."""
        table = pa.ipc.open_stream(dumped).read_all()
        self._n = 0
        self._suspect = np.zeros(0, np.bool_)
        self._grow(len(table))
        for name in _STATE:
            values = table.column(name).to_numpy()
            self._state[name][: len(table)] = values
        gaps = json.loads(table.schema.metadata[b"gaps"])
        self._trouble = {
            int(n): Trouble(gaps=[(first, end) for first, end in pairs])
            for n, pairs in gaps.items()
        }


def to_ipc(table: pa.Table) -> bytes:
    """``table`` as an Arrow IPC stream, lz4."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
