"""NetFlow v9, IPFIX and NetStream v9 and v10: everything that is described by templates.

All datagrams of a batch go through each step together: headers, sets, templates, data. A step costs
what the number of different templates and layouts costs, and little for a datagram or a record.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from appliance.batch import DatagramBatch
from appliance.columns import Column, Columns
from appliance.decode.context import DecodeContext, Status
from appliance.decode.elements import Registry
from appliance.decode.hold import Found, HeldDatagram, HoldQueue
from appliance.decode.limits import Limits
from appliance.decode.netflow.definitions import TemplateReader
from appliance.decode.netflow.describe import describe
from appliance.decode.netflow.layout import VARIABLE, Field, Layout
from appliance.decode.netflow.lists import ListReader
from appliance.decode.netflow.plan import compile_plan
from appliance.decode.netflow.records import Records, locate
from appliance.decode.netflow.steps import Run
from appliance.decode.netflow.templates import TemplateTable
from appliance.decode.netflow.walk import (
    IPFIX,
    V9,
    Dialect,
    Sets,
    read_headers,
    walk_sets,
)
from appliance.decode.options import OptionsState
from appliance.decode.packet import decode_packets
from appliance.decode.sources import SourceTable

I64 = NDArray[np.int64]


@dataclass(slots=True)
class _Part:
    """The datagrams of one dialect in a batch, down to their data sets."""

    dialect: Dialect
    index: I64
    uptime: NDArray[np.uint32] | None
    """``uint32 (len(batch),)``: sysUptime by datagram, v9 only."""
    sets: Sets
    scope: I64
    """Template scope of each set."""


@dataclass(slots=True)
class TemplateDecoder:
    """Decodes by templates; keeps them, and what waits for them, from batch to batch."""

    registry: Registry
    limits: Limits
    sources: SourceTable
    options: OptionsState
    table: TemplateTable = field(init=False)
    hold: HoldQueue = field(init=False)
    _reader: TemplateReader = field(init=False)
    _fresh: list[tuple[int, HeldDatagram]] = field(default_factory=list)
    """What has to wait from this batch on, with its number in the batch; -1: it had waited."""
    _found: list[Found] = field(default_factory=list)
    """What waits no more with this batch."""

    def __post_init__(self) -> None:
        self.table = TemplateTable(self.limits)
        self.hold = HoldQueue(self.limits)
        self._reader = TemplateReader(self.table, self.limits)

    def decode(self, ctx: DecodeContext, v9: I64, ipfix: I64, now_ns: int) -> DecodeContext | None:
        """Decode the NetFlow v9 datagrams ``v9`` and the IPFIX messages ``ipfix``.

        Returns the context of held datagrams whose templates have come with this batch. What this
        changes is for good with :meth:`commit`, or taken back by :meth:`undo`.
        """
        parts = []
        for dialect, index in ((V9, v9), (IPFIX, ipfix)):
            if len(index):
                part = self._walk(ctx, dialect, index)
                self._templates(ctx, part, now_ns)
                parts.append(part)
        released = self._release(now_ns)
        for part in parts:
            self._data(ctx, part, part.sets.order, now_ns)
        return released

    def commit(self, ctx: DecodeContext, released: DecodeContext | None, now_ns: int) -> None:
        """The batch ``ctx`` is decoded, and its datagrams have their status for good."""
        if released is not None:
            for (_, held, _), status in zip(self._found, released.status.tolist(), strict=True):
                if status > Status.HELD:
                    held.status = max(held.status, Status(status))
        self.hold.take(self._found)
        self.hold.expire(now_ns)
        for datagram, held in self._fresh:
            # what has waited before, or is refused for another reason, has its disposition
            held.counted = datagram >= 0 and bool(ctx.status[datagram] == Status.HELD)
            self.hold.add(held)
        self._found, self._fresh = [], []
        self.table.end_batch()

    def undo(self) -> None:
        """The batch could not be decoded: all is as before."""
        self._found, self._fresh = [], []
        self.table.undo()

    def sessions(self) -> set[int]:
        """TCP sessions that have templates, or something that waits for one."""
        return {pair[0] for pair, _ in self.table.sessions()} | self.hold.sessions()

    def end_session(self, session: int) -> None:
        """A TCP session has ended, and its templates with it."""
        self.table.end_session(session)
        self.hold.end_session(session)
        self._reader.forget()

    def _walk(self, ctx: DecodeContext, dialect: Dialect, index: I64) -> _Part:
        headers = read_headers(ctx, index, dialect, self.sources)
        sets = walk_sets(ctx, headers, dialect, self.limits.sets_per_datagram)
        uptime = None
        if headers.uptime is not None:
            uptime = np.zeros(len(ctx.batch), np.uint32)
            uptime[headers.index] = headers.uptime
        scope = self.table.scopes(ctx.source[sets.datagram], ctx.batch.session[sets.datagram])
        return _Part(dialect, headers.index, uptime, sets, scope)

    def _templates(self, ctx: DecodeContext, part: _Part, now_ns: int) -> None:
        """Apply template sets; leave the data sets in ``part``."""
        sets, dialect = part.sets, part.dialect
        low = sets.id < 256
        if not low.any():
            return
        template = (sets.id == dialect.template_set) | (sets.id == dialect.options_set)
        if template.any():
            self._reader.read(ctx, dialect, sets.select(template), part.scope[template], now_ns)
        reserved = low & ~template
        where = sets.datagram[reserved]
        at = sets.start[reserved] - 4 - ctx.batch.offset[where]
        ctx.mark(where, Status.MALFORMED_DATA, at, "reserved set id")
        part.sets, part.scope = sets.select(~low), part.scope[~low]

    def _data(self, ctx: DecodeContext, part: _Part, order: I64, now_ns: int) -> None:
        sets = part.sets
        if part.dialect is IPFIX:
            ctx.sequence_units[part.index] = 0
        if len(sets):
            number, order = self.table.resolve(part.scope << 16 | sets.id, order, now_ns)
            sets = Sets(sets.datagram, sets.id, sets.start, sets.end, order)
            unknown = number < 0
            if unknown.any():
                self._cut_down(ctx, part.dialect, sets.select(unknown))
                sets, number = sets.select(~unknown), number[~unknown]
            if len(number) and (number == number[0]).all():
                self._layout(ctx, part, self.table.layouts[int(number[0])], sets)
            else:
                for one in np.unique(number).tolist():
                    self._layout(ctx, part, self.table.layouts[one], sets.select(number == one))
        if part.dialect is IPFIX:
            lost = ctx.status[part.index] != Status.DECODED
            ctx.sequence_units[part.index[lost]] = -1

    def _layout(self, ctx: DecodeContext, part: _Part, layout: Layout, sets: Sets) -> None:
        """Decode the data sets of one layout."""
        records = locate(ctx, layout, sets, self.limits.records_per_datagram)
        if not len(records):
            return
        count = np.bincount(records.datagram, minlength=len(ctx.batch))
        if part.dialect is IPFIX:
            ctx.sequence_units += count
        if layout.options:
            self._options(ctx, layout, records)
            return
        ctx.records += count
        if layout.plan is None:
            layout.plan = compile_plan(layout, self.registry)
        source = ctx.source[records.datagram]
        out = Columns(records.datagram, source)
        out.columns["template_id"] = Column(records.template_id, pa.uint16())
        run = Run(
            records,
            ctx.export_ns[records.datagram],
            None if part.uptime is None else part.uptime[records.datagram],
            None if part.uptime is not None else self.options.init_ns(source),
            out,
            self._lists(ctx),
            decode_packets,
        )
        layout.plan.run(run)
        ctx.flows.append(out)

    def _options(self, ctx: DecodeContext, layout: Layout, records: Records) -> None:
        room = self.limits.options_records_per_batch - len(ctx.options)
        if len(records) > room:
            ctx.mark(np.unique(records.datagram), Status.OVER_LIMIT, 0, "too many options records")
        for record, values, scope in describe(ctx, layout, records, self.registry, max(room, 0)):
            ctx.options.append(record)
            self.options.learn(record.source, values, scope)

    def _lists(self, ctx: DecodeContext) -> Callable[[Records, Field], list[str | None]]:
        """Reads lists with the templates as they were when the records could be decoded."""

        def texts(records: Records, f: Field) -> list[str | None]:
            found: list[str | None] = []
            where = records.datagram
            scope = self.table.scopes(ctx.source[where], ctx.batch.session[where]).tolist()
            if f.length != VARIABLE:
                values = [row.tobytes() for row in records.octets(f)]
            else:
                offset, length = records.values[f.segment]
                values = [
                    records.buffer[a : a + n].tobytes()
                    for a, n in zip(offset.tolist(), length.tolist(), strict=True)
                ]
            for of, order, value in zip(scope, records.order.tolist(), values, strict=True):
                reader = ListReader(self.registry, self._finder(of, order))
                found.append(reader.text(f.id, value))
            return found

        return texts

    def _finder(self, scope: int, order: int) -> Callable[[int], Layout | None]:
        def find(template: int) -> Layout | None:
            number = self.table.layout_at(scope << 16 | template, order)
            return None if number < 0 else self.table.layouts[number]

        return find

    def _cut_down(self, ctx: DecodeContext, dialect: Dialect, sets: Sets) -> None:
        """Mark the datagrams of sets without template, and keep what has to wait."""
        ctx.mark(np.unique(sets.datagram), Status.HELD, 0, "")
        buffer, offset = ctx.batch.buffer, ctx.batch.offset
        waiting: dict[int, tuple[list[int], list[bytes]]] = {}
        for datagram, number, start, end in zip(
            sets.datagram.tolist(),
            sets.id.tolist(),
            sets.start.tolist(),
            sets.end.tolist(),
            strict=True,
        ):
            ids, bodies = waiting.setdefault(datagram, ([], []))
            ids.append(number)
            head = number.to_bytes(2, "big") + (end - start + 4).to_bytes(2, "big")
            bodies.append(head + buffer[start:end].tobytes())
        for datagram, (ids, bodies) in waiting.items():
            first = int(offset[datagram])
            header = buffer[first : first + dialect.header].tobytes()
            self._hold(ctx, dialect, datagram, header, ids, bodies)

    def _hold(
        self,
        ctx: DecodeContext,
        dialect: Dialect,
        datagram: int,
        header: bytes,
        ids: list[int],
        bodies: list[bytes],
    ) -> None:
        one = slice(datagram, datagram + 1)
        source, session = ctx.source[one], ctx.batch.session[one]
        scope = int(self.table.scopes(source, session)[0])
        sets: dict[int, bytes] = {}
        for number, body in zip(ids, bodies, strict=True):
            key = scope << 16 | number
            sets[key] = sets.get(key, b"") + body
        held = HeldDatagram(
            int(source[0]),
            int(ctx.exporter[datagram]),
            int(ctx.batch.received_ns[datagram]),
            ctx.batch.address[datagram].tobytes(),
            int(ctx.batch.port[datagram]),
            header,
            sets,
            int(session[0]),
        )
        self._fresh.append((datagram, held))

    def _release(self, now_ns: int) -> DecodeContext | None:
        """Decode the held sets whose templates this batch has brought."""
        keys = [
            key
            for key, changes in self.table.changes.items()
            if self.hold.waits_for(key) and any(c.after >= 0 for c in changes)
        ]
        if not keys:
            return None
        found = self._found = self.hold.find(keys)
        payloads = []
        for _, held, sets in found:
            body = b"".join(sets.values())
            header = held.header
            if len(header) == IPFIX.header:
                header = header[:2] + (len(header) + len(body)).to_bytes(2, "big") + header[4:]
            payloads.append(header + body)
        batch = DatagramBatch.from_payloads(
            payloads,
            [held.address for _, held, _ in found],
            [held.received_ns for _, held, _ in found],
            [held.port for _, held, _ in found],
            [held.session for _, held, _ in found],
        )
        exporter = np.asarray([held.exporter for _, held, _ in found], np.int64)
        ctx = DecodeContext.of(batch, exporter)
        is_v9 = np.asarray([len(held.header) == V9.header for _, held, _ in found])
        for dialect, index in ((V9, np.flatnonzero(is_v9)), (IPFIX, np.flatnonzero(~is_v9))):
            if len(index):
                part = self._walk(ctx, dialect, index)
                # all that was held is older than this batch
                self._data(ctx, part, np.full(len(part.sets), -1), now_ns)
        self._fresh = [(-1, held) for _, held in self._fresh]
        return ctx

    def dump(self) -> dict[str, Any]:
        """Templates as plain values for the checkpoint."""
        return self.table.dump()
