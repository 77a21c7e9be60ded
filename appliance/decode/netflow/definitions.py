"""Template sets: RFC 3954, sections 5.2 and 6.1; RFC 7011, sections 3.4.1, 3.4.2 and 8.1.

There are few of them, so this is a plain loop; a set that a scope has sent before, with nothing
changed since, is recognised by its bytes alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from appliance.decode.context import DecodeContext, Status
from appliance.decode.limits import Limits
from appliance.decode.netflow.layout import VARIABLE, build
from appliance.decode.netflow.templates import TemplateTable, specifiers
from appliance.decode.netflow.walk import Dialect, Sets

I64 = NDArray[np.int64]

MAX_RECORD = 65535
REFUSED = -2
"""Scope count of a definition that is read over only."""
SETS_REMEMBERED = 64
"""Template sets remembered by their bytes, per scope."""
BYTES_REMEMBERED = 2048
"""The longest set that is remembered."""
BYTES_REMEMBERED_IN_ALL = 64 << 20
"""Of all scopes; beyond it all are forgotten, and read in full when they come again."""


class TemplateError(ValueError):
    """A template definition that is not valid; the message says why."""

    def __init__(self, offset: int, why: str, status: Status = Status.MALFORMED_TEMPLATE) -> None:
        super().__init__(why)
        self.offset = offset
        self.status = status


@dataclass(slots=True)
class TemplateReader:
    """Applies template sets to a :class:`TemplateTable`."""

    table: TemplateTable
    limits: Limits
    _seen: dict[int, dict[bytes, tuple[int, NDArray[np.int64]]]] = field(default_factory=dict)
    """By scope and bytes of a set: the scope's generation after it, and the slots it defines."""
    _bytes: int = 0
    """Length of all remembered sets together."""

    def read(
        self, ctx: DecodeContext, dialect: Dialect, sets: Sets, scope: I64, now_ns: int
    ) -> None:
        """Apply template sets in their order; ``scope`` has one entry a set."""
        buffer = ctx.batch.buffer
        for i, where in enumerate(scope.tolist()):
            datagram = int(sets.datagram[i])
            start, end = int(sets.start[i]), int(sets.end[i])
            set_id = int(sets.id[i])
            body = bytes([set_id]) + buffer[start:end].tobytes()
            seen = self._seen.get(where)
            if seen is None:
                seen = self._seen[where] = {}
            before = seen.get(body)
            if before is not None and before[0] == self.table.generation.get(where, 0):
                self.table.refresh(before[1], now_ns)
                continue
            reading = _Reading(
                self.table,
                self.limits,
                dialect,
                where,
                int(ctx.exporter[datagram]),
                int(sets.order[i]),
                now_ns,
            )
            try:
                reading.run(body[1:], set_id == dialect.options_set)
            except TemplateError as error:
                reading.errors.append(error)
            for found in reading.errors:
                at = start + found.offset - int(ctx.batch.offset[datagram])
                ctx.mark(np.array([datagram]), found.status, at, str(found))
            if reading.errors or len(body) > BYTES_REMEMBERED:
                continue
            if len(seen) >= SETS_REMEMBERED:
                self._bytes -= sum(map(len, seen))
                seen.clear()
            if body not in seen:
                self._bytes += len(body)
            if self._bytes > BYTES_REMEMBERED_IN_ALL:
                self.forget()
                seen = self._seen[where] = {}
                self._bytes = len(body)
            generation = self.table.generation.get(where, 0)
            seen[body] = generation, np.asarray(reading.slots, np.int64)

    def forget(self) -> None:
        """Forget all remembered sets: those of scopes that are gone, or what is too much."""
        self._seen.clear()
        self._bytes = 0


@dataclass(slots=True)
class _Reading:
    table: TemplateTable
    limits: Limits
    dialect: Dialect
    scope: int
    exporter: int
    order: int
    now_ns: int
    slots: list[int] = field(default_factory=list)
    errors: list[TemplateError] = field(default_factory=list)

    def run(self, body: bytes, options: bool) -> None:
        """Apply all template records of a set body."""
        position = 0
        ipfix = self.dialect.header == 16
        while position + 4 <= len(body):
            number = body[position] << 8 | body[position + 1]
            count = body[position + 2] << 8 | body[position + 3]
            if number == 0:
                # padding, at the end of the set or, from some exporters, between records
                position += 2
                continue
            if ipfix and count == 0:
                self._withdraw(number)
                position += 4
                continue
            if number < 256:
                raise TemplateError(position, f"template id {number}")
            if not options:
                position = self._define(body, number, position + 4, count, 0)
            elif position + 6 > len(body):
                raise TemplateError(position, "options template beyond its set")
            elif ipfix:
                scopes = body[position + 4] << 8 | body[position + 5]
                if not 0 < scopes <= count:
                    self.errors.append(
                        TemplateError(position, f"template {number}: {scopes} scopes of {count}")
                    )
                    scopes = 0
                position = self._define(body, number, position + 6, count, scopes or REFUSED)
            else:
                others = body[position + 4] << 8 | body[position + 5]
                if count % 4 or others % 4:
                    raise TemplateError(position, "options template length not a multiple of 4")
                fields = (count + others) // 4
                position = self._define(body, number, position + 6, fields, count // 4 or -1)

    def _withdraw(self, number: int) -> None:
        if number in (self.dialect.template_set, self.dialect.options_set):
            options = number == self.dialect.options_set
            self.table.withdraw_all(self.scope, self.exporter, options, self.order)
        else:
            self.table.withdraw(self.scope << 16 | number, self.order)

    def _define(self, body: bytes, number: int, start: int, count: int, scopes: int) -> int:
        """Define one template with ``count`` fields at ``start``; returns where it ends."""
        key = self.scope << 16 | number
        end = start + 4 * count
        protocol = int(self.dialect.protocol)
        if self.dialect.header == 16:
            end = start
            for _ in range(count):
                if end + 4 > len(body):
                    raise TemplateError(start, f"template {number} beyond its set")
                end += 8 if body[end] & 0x80 else 4
        if end > len(body):
            raise TemplateError(start, f"template {number} beyond its set")
        if scopes == REFUSED:
            self.table.withdraw(key, self.order)
            return end
        raw = body[start:end]
        layout = self.table.layouts.find(protocol, scopes, raw)
        if layout < 0:
            triples = specifiers(protocol, raw)
            status = Status.MALFORMED_TEMPLATE
            why = ""
            size = sum(length if length != VARIABLE else 1 for _, _, length in triples)
            if count > self.limits.fields_per_template:
                status, why = Status.OVER_LIMIT, f"template {number} has {count} fields"
            elif not 0 < size <= MAX_RECORD:
                why = f"template {number} has records of {size} bytes"
            if why:
                # what the exporter means by this id is not known any more
                self.table.withdraw(key, self.order)
                self.errors.append(TemplateError(start, why, status))
                return end
            layout = self.table.layouts.add(build(protocol, scopes, raw, triples))
        self.slots.append(self.table.define(key, self.exporter, layout, self.order, self.now_ns))
        return end
