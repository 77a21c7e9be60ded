"""The decoder as its users see it: dispatch by version, common columns, state."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from appliance.batch import IPV4_MAPPED_PREFIX, DatagramBatch
from appliance.columns import Column, Columns, merge, record_batch
from appliance.decode import gather, sflow
from appliance.decode.context import DecodeContext, DecodeError, OptionsRecord, Status
from appliance.decode.elements import Registry
from appliance.decode.limits import Limits
from appliance.decode.netflow import TemplateDecoder, fixed
from appliance.decode.netflow.templates import SESSION_SCOPES
from appliance.decode.options import OptionsState
from appliance.decode.sources import SourceTable
from appliance.schema import ADDRESS, ExportProtocol

if TYPE_CHECKING:
    from appliance.config import Config

I64 = NDArray[np.int64]
Network = IPv4Network | IPv6Network

STATE_VERSION = 1

OPTIONS_SCHEMA = pa.schema(
    [
        pa.field("received_ns", pa.int64()),
        pa.field("exporter", ADDRESS),
        pa.field("exporter_port", pa.uint16()),
        pa.field("export_protocol", pa.uint8()),
        pa.field("observation_domain", pa.uint32()),
        pa.field("export_ns", pa.int64()),
        pa.field("template_id", pa.uint16()),
        pa.field("scope", pa.string()),
        pa.field("fields", pa.string()),
    ]
)
"""Options data records as rows; ``scope`` and ``fields`` are JSON objects by element."""


@dataclass(slots=True)
class Decoded:
    """What one call of :meth:`Decoder.decode` gave. Arrays have an entry for each datagram."""

    flows: list[pa.RecordBatch]
    """Flow records, in the canonical schema (appliance.schema)."""
    flow_datagram: list[I64]
    """For each batch of ``flows``: the datagram of each row; -1 for one that had been held."""
    counters: list[pa.RecordBatch]
    """Counter samples of sFlow."""
    counter_datagram: list[I64]
    options: list[pa.RecordBatch]
    """Options data records (:data:`OPTIONS_SCHEMA`)."""
    options_records: list[OptionsRecord]
    """The same as objects; ``datagram`` is -1 for what had been held."""
    errors: list[DecodeError]
    status: NDArray[np.uint8]
    """:class:`Status`"""
    exporter: I64
    """Number in :class:`SourceTable`."""
    source: I64
    """Number in :class:`SourceTable`."""
    length: I64
    """Bytes."""
    export_ns: I64
    sequence: I64
    sequence_units: I64
    records: I64
    """Flow records decoded of each datagram."""
    expired: dict[int, int] = field(default_factory=dict)
    """Held datagrams given up for their age, by source."""
    evicted: dict[int, int] = field(default_factory=dict)
    """Held datagrams given up for a limit, by source."""
    released: dict[tuple[int, Status], int] = field(default_factory=dict)
    """Held datagrams of which the last waiting set was decoded, by source and status."""
    released_records: dict[int, int] = field(default_factory=dict)
    """Flow records out of held datagrams, by source; not in ``records``."""


class Decoder:
    """Decodes batches; keeps templates, options and held datagrams between them.

    Not for use by several threads. ``revision`` grows when what :meth:`dump` gives has changed.
    """

    def __init__(
        self,
        registry: Registry,
        limits: Limits | None = None,
        overrides: Mapping[Network, int] | None = None,
        allow: Iterable[Network] = (),
        sources: SourceTable | None = None,
    ) -> None:
        """``overrides``: sampling rates of exporters that say none. ``allow``: empty for all."""
        self.limits = limits or Limits()
        self.sources = sources or SourceTable()
        self.options = OptionsState(self.sources, self.limits)
        self._templates = TemplateDecoder(registry, self.limits, self.sources, self.options)
        self._overrides = sorted(
            (overrides or {}).items(), key=lambda item: item[0].prefixlen, reverse=True
        )
        self._allow = tuple(allow)
        self._admitted = np.zeros(0, np.bool_)

    @classmethod
    def of(cls, config: Config, registry: Registry) -> Decoder:
        """The decoder that a configuration describes."""
        return cls(
            registry,
            config.limits.decoder(config.receive.shards),
            {e.address: e.sampling_rate for e in config.exporter if e.sampling_rate},
            config.allow,
            SourceTable(config.limits.exporters, config.limits.domains_per_exporter),
        )

    @property
    def revision(self) -> int:
        """Changes when templates, options or sources do."""
        table = self._templates.table
        return table.revision + self.options.revision + len(self.sources.sources)

    def decode(self, batch: DatagramBatch, now_ns: int) -> Decoded:
        """Decode ``batch``; ``now_ns`` dates templates and ends what was held for too long.

        Should it raise, which no input should make it do, then the state is as before.
        """
        try:
            ctx = DecodeContext.of(batch, self.sources.exporters(batch.address))
            groups = self._by_version(ctx)
            for version, decode in _FIXED.items():
                if len(index := groups[version]):
                    decode(ctx, index, self.sources)
            if len(index := groups[ExportProtocol.SFLOW_V5]):
                sflow.decode(ctx, index, self.sources)
            released = self._templates.decode(
                ctx, groups[ExportProtocol.NETFLOW_V9], groups[ExportProtocol.IPFIX], now_ns
            )
            decoded = self._finish(ctx, released)
        except BaseException:
            self._templates.undo()
            raise
        self._templates.commit(ctx, released, now_ns)
        hold = self._templates.hold
        decoded.expired, decoded.evicted, decoded.released = hold.take_counts()
        return decoded

    def undecodable(self, batch: DatagramBatch) -> Decoded:
        """What :meth:`decode` gives for datagrams that cannot be decoded at all."""
        ctx = DecodeContext.of(batch, self.sources.exporters(batch.address))
        every = np.arange(len(batch), dtype=np.int64)
        ctx.mark(every, Status.MALFORMED_HEADER, 0, "refused by the decoder")
        self._without_source(ctx)
        return self._finish(ctx, None)

    def sessions(self) -> set[int]:
        """TCP sessions that have not ended, so far as this decoder knows of them."""
        return self._templates.sessions()

    def end_session(self, session: int) -> None:
        """A TCP session has ended: its templates are gone (RFC 7011, section 8.1)."""
        self._templates.end_session(session)

    def give_up_held(self) -> None:
        """Give up what waits for templates; the next call of :meth:`decode` says whose it was."""
        self._templates.hold.give_up()

    def _by_version(self, ctx: DecodeContext) -> dict[int, I64]:
        """Indices of the datagrams of each protocol; the others are marked."""
        batch = ctx.batch
        every = np.arange(len(batch), dtype=np.int64)
        self._admit()
        refused = ~self._admitted[ctx.exporter]
        if refused.any():
            ctx.mark(every[refused], Status.REFUSED, 0, "exporter is not allowed")
        short = (batch.length < 4) & ~refused
        ctx.mark(every[short], Status.MALFORMED_HEADER, 0, "shorter than a version number")
        every = every[~(refused | short)]
        head = gather.records(batch.buffer, batch.offset[every], 4).view(">u2")
        version = head[:, 0].astype(np.int64)
        # sFlow's version has 32 bits
        version[version == ExportProtocol.SFLOW_V5] = 0
        version[(version == 0) & (head[:, 1] == 5)] = ExportProtocol.SFLOW_V5
        groups = {}
        known = np.zeros(len(every), np.bool_)
        for protocol in _PROTOCOLS:
            mine = version == protocol
            groups[int(protocol)] = every[mine]
            known |= mine
        ctx.mark(every[~known], Status.UNKNOWN_VERSION, 0, "unknown version")
        return groups

    def _admit(self) -> None:
        """Judge exporters that are new by the allow-list and the sampling rates given."""
        seen = len(self._admitted)
        new = self.sources.addresses[seen:]
        if not new:
            return
        admitted = np.ones(len(new), np.bool_)
        if self._allow or self._overrides:
            for i, octets in enumerate(new):
                mapped = octets[:12] == IPV4_MAPPED_PREFIX
                address = ip_address(octets[12:] if mapped else octets)
                if self._allow:
                    admitted[i] = any(address in network for network in self._allow)
                for network, rate in self._overrides:
                    if address in network:
                        self.options.config_rate[seen + i] = rate
                        break
        self._admitted = np.concatenate([self._admitted, admitted])

    def _without_source(self, ctx: DecodeContext) -> None:
        """Datagrams that no protocol took belong to a source of their exporter all the same."""
        left = ctx.source < 0
        if left.any():
            exporter = ctx.exporter[left]
            ctx.source[left] = self.sources.intern(
                exporter, int(ExportProtocol.UNKNOWN), np.zeros(len(exporter), np.int64)
            )

    def _finish(self, ctx: DecodeContext, released: DecodeContext | None) -> Decoded:
        self._without_source(ctx)
        decoded = Decoded(
            [],
            [],
            [],
            [],
            [],
            [],
            ctx.errors,
            status=ctx.status,
            exporter=ctx.exporter,
            source=ctx.source,
            length=ctx.batch.length,
            export_ns=ctx.export_ns,
            sequence=ctx.sequence,
            sequence_units=ctx.sequence_units,
            records=ctx.records,
        )
        if released is not None:
            self._rows(decoded, released, held=True)
            counts = np.bincount(released.source, released.records).astype(np.int64)
            decoded.released_records = {s: int(counts[s]) for s in np.flatnonzero(counts).tolist()}
        self._rows(decoded, ctx, held=False)
        return decoded

    def _rows(self, decoded: Decoded, ctx: DecodeContext, held: bool) -> None:
        """Make record batches of the rows of ``ctx``."""
        common = _Common(ctx, self.sources)
        flows = merge([rows for rows in ctx.flows if len(rows)])
        if flows:
            defaults = self.options.defaults(ctx.source)
            for rows in flows:
                self.options.apply(rows, defaults)
        counters = [rows for rows in ctx.counters if len(rows)]
        every = flows + counters
        made = common.columns(every) if every else []
        for i, (rows, columns) in enumerate(zip(every, made, strict=True)):
            columns.update(rows.columns)
            datagram = np.full(len(rows), -1, np.int64) if held else rows.datagram
            if i < len(flows):
                decoded.flows.append(record_batch(columns))
                decoded.flow_datagram.append(datagram)
            else:
                decoded.counters.append(record_batch(columns))
                decoded.counter_datagram.append(datagram)
        if ctx.options:
            decoded.options.append(common.options(ctx.options))
            for record in ctx.options:
                if held:
                    record.datagram = -1
            decoded.options_records += ctx.options

    def templates(self) -> list[dict[str, Any]]:
        """All templates, for display: exporter, protocol, domain, id, fields, times and uses."""
        table = self._templates.table
        arrays = {name: values.tolist() for name, values in table.slots_used().items()}
        names = {pair[1]: pair[0] for pair in table.sessions()}
        rows = []
        for i, key in enumerate(arrays["key"]):
            scope = key >> 16
            session = 0
            number = scope
            if scope >= SESSION_SCOPES:
                session, number = names[scope]
            source = self.sources.sources[number]
            layout = table.layouts[arrays["layout"][i]]
            rows.append(
                {
                    "exporter": _text(self.sources.addresses[source.exporter]),
                    "protocol": source.protocol,
                    "domain": source.domain,
                    "session": session,
                    "id": key & 0xFFFF,
                    "options": layout.options,
                    "fields": [[f.pen, f.id, f.length] for f in layout.fields],
                    "defined_ns": arrays["defined_ns"][i],
                    "refreshed_ns": arrays["refreshed_ns"][i],
                    "used_ns": arrays["used_ns"][i],
                    "uses": arrays["uses"][i],
                }
            )
        return rows

    @property
    def layouts(self) -> int:
        """Different field lists that templates have now."""
        return len(self._templates.table.layouts)

    def templates_evicted(self) -> dict[int, int]:
        """Templates that had to make room, by exporter number, since the first start."""
        return dict(self._templates.table.evicted)

    def options_evicted(self) -> dict[int, int]:
        """Names and rates from options data that had to make room, likewise."""
        return dict(self.options.evicted)

    def dump(self) -> bytes:
        """Sources, templates and options: what changes slowly."""
        return json.dumps(
            {
                "version": STATE_VERSION,
                "sources": self.sources.dump(),
                "templates": self._templates.table.dump(),
                "options": self.options.dump(),
            },
            separators=(",", ":"),
        ).encode()

    def dump_held(self, everything: bool = False) -> bytes:
        """What is held, as a log that grows (see :meth:`HoldQueue.dump`)."""
        return self._templates.hold.dump(everything)

    @property
    def held_bytes(self) -> int:
        """Bytes of datagrams that wait for their templates."""
        return self._templates.hold.size

    def load(self, state: bytes, held: bytes = b"", now_ns: int = 0) -> None:
        """Restore what :meth:`dump` and :meth:`dump_held` gave, into a fresh decoder."""
        if state:
            values = json.loads(state)
            if values["version"] != STATE_VERSION:
                raise ValueError(f"decoder state of version {values['version']}")
            self.sources.load(values["sources"])
            self._templates.table.load(values["templates"])
            self.options.load(values["options"])
        self._templates.hold.load(held)
        if now_ns:
            self._templates.hold.expire(now_ns)


_FIXED: dict[int, Callable[[DecodeContext, I64, SourceTable], None]] = {
    ExportProtocol.NETFLOW_V1: fixed.decode_v1,
    ExportProtocol.NETFLOW_V5: fixed.decode_v5,
    ExportProtocol.NETFLOW_V7: fixed.decode_v7,
}
_PROTOCOLS = [p for p in ExportProtocol if p is not ExportProtocol.UNKNOWN]


def _text(octets: bytes) -> str:
    return str(ip_address(octets[12:] if octets[:12] == IPV4_MAPPED_PREFIX else octets))


class _Common:
    """The columns that every row has: who sent it, and when."""

    def __init__(self, ctx: DecodeContext, sources: SourceTable) -> None:
        columns = sources.columns()
        batch = ctx.batch
        self._per_datagram: list[tuple[str, NDArray[Any], pa.DataType]] = [
            ("received_ns", batch.received_ns, pa.int64()),
            ("exporter", np.ascontiguousarray(batch.address).view("V16").ravel(), ADDRESS),
            ("exporter_port", batch.port, pa.uint16()),
            ("export_protocol", columns["protocol"][ctx.source].astype(np.uint8), pa.uint8()),
            ("observation_domain", columns["domain"][ctx.source].astype(np.uint32), pa.uint32()),
            ("export_ns", ctx.export_ns, pa.int64()),
        ]
        self._source = ctx.source

    def columns(self, rows: list[Columns]) -> list[dict[str, Column]]:
        """Common columns of each of ``rows``, from the datagram of each row."""
        length = [len(r) for r in rows]
        at = np.concatenate([r.datagram for r in rows]) if len(rows) > 1 else rows[0].datagram
        whole = []
        for name, values, type_ in self._per_datagram:
            taken = values[at]
            if type_ == ADDRESS:
                taken = taken.view(np.uint8).reshape(len(at), 16)
            whole.append((name, taken, type_))
        split = []
        first = 0
        for n in length:
            part = slice(first, first + n)
            columns = {name: Column(values[part], type_) for name, values, type_ in whole}
            export = columns["export_ns"].values
            if not export.any():
                del columns["export_ns"]
            elif not export.all():
                columns["export_ns"].valid = export > 0
            split.append(columns)
            first += n
        return split

    def options(self, records: list[OptionsRecord]) -> pa.RecordBatch:
        """Options records as rows."""
        at = np.asarray([r.datagram for r in records], np.int64)
        columns = self.columns([Columns(at, self._source[at])])[0]
        template = np.asarray([r.template_id for r in records], np.uint16)
        columns.setdefault("export_ns", Column(np.zeros(len(at), np.int64), pa.int64()))
        columns["template_id"] = Column(template, pa.uint16())
        for name in ("scope", "fields"):
            texts = [json.dumps(getattr(r, name)) for r in records]
            columns[name] = Column(pa.array(texts, pa.string()), pa.string())
        return record_batch({name: columns[name] for name in OPTIONS_SCHEMA.names})
