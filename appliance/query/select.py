"""What the queries have in common: which rows are meant, by what they are grouped, how they count.

Counters are scaled by the sampling rate where it is known. Where it is not, a row counts as sent,
and every result says how many of its flows that concerns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from appliance.query.engine import EVER, Engine, QueryError, Window, quoted
from appliance.query.filter import FilterError, Node, parse, reads
from appliance.query.macros import RATE
from appliance.query.predicate import Parameters, predicate
from appliance.query.terms import SAMPLING_KNOWN
from appliance.query.values import V4_BASE
from appliance.schema import ADDRESS, CANONICAL, DRILL_DOMAINS, FlowKind, column_type
from appliance.store.files import snapshot

SAMPLING = ("sampling_rate", "sampling_source")
_OF_DRILLS = f"observation_domain BETWEEN {DRILL_DOMAINS[0]} AND {DRILL_DOMAINS[-1]}"


class Known(dict[str, pa.DataType]):
    """The canonical columns, and their reverses and repetitions when asked for."""

    def __init__(self) -> None:
        super().__init__(CANONICAL)

    def __missing__(self, name: str) -> pa.DataType:
        type_ = column_type(name)
        if type_ is None:
            raise KeyError(name)
        return type_

    def get(self, name: str, default: object = None) -> pa.DataType:
        """As of any mapping; a dict's own does not ask ``__missing__``."""
        try:
            return self[name]
        except KeyError:
            return default


KNOWN = Known()


@dataclass(slots=True)
class Selection:
    """The rows that a query is about, as parts of an SQL statement.

    ``columns`` grows with what the statement reads; it becomes the shape of the tables.
    """

    engine: Engine
    window: Window
    filter: Node
    condition: str
    """The filter as SQL."""
    where: str
    """The filter, the window, and what is always left out, as SQL."""
    parameters: Parameters
    columns: dict[str, pa.DataType]
    types: Mapping[str, pa.DataType]
    """All columns that may be named."""

    def need(self, names: Iterable[str]) -> None:
        """Have columns ``names`` read, too; QueryError if there is no such column."""
        for name in names:
            if name not in self.columns:
                self.columns[name] = column(self.engine, self.window, self.types, name)

    def fetch(self, sql: str, rolled_up: bool = False) -> pa.Table:
        """The rows of ``sql``, which may use this selection's parameters."""
        return self.engine.execute(
            sql,
            self.parameters.values,
            window=self.window,
            columns=self.columns,
            rolled_up=rolled_up,
        )


def column(
    engine: Engine, window: Window, types: Mapping[str, pa.DataType], name: str
) -> pa.DataType:
    """The type of column ``name``; files are asked where the schema does not know it."""
    found = types.get(name) or engine.columns(window).get(name)
    if found is None:
        raise QueryError(
            f"no column is called {name!r}; `tandem sql 'describe flows'` lists them all"
        )
    return found


def select(
    engine: Engine, filter_text: str, window: Window = EVER, *, discards: bool = False
) -> Selection:
    """The rows of ``flows`` in ``window`` that the filter holds for.

    sFlow's discard samples are packets that were also sampled as traffic: without ``discards`` they
    are left out, except where the filter itself asks for ``kind``. Flow records of drills are left
    out, except where it asks for ``observation_domain``.
    """
    types: Mapping[str, pa.DataType] = KNOWN
    try:
        node = parse(filter_text, types)
    except FilterError as error:
        if not error.message.startswith("no term or column"):
            raise
        types = engine.columns(window)
        node = parse(filter_text, types)
    parameters = Parameters()
    condition = predicate(node, parameters)
    where = f"{window.sql()} AND {condition}"
    selection = Selection(engine, window, node, condition, where, parameters, {}, types)
    named = reads(node)
    selection.need(["received_ns", *sorted(named)])
    if not discards and "kind" not in named:
        selection.need(["kind"])
        selection.where += f" AND kind IS DISTINCT FROM {int(FlowKind.DISCARD_SAMPLE)}"
    if "observation_domain" not in named:
        selection.need(["observation_domain"])
        selection.where += f" AND ({_OF_DRILLS}) IS NOT TRUE"
    return selection


# --- what to group by ---

ALIASES = {
    "src": "src_addr", "dst": "dst_addr", "srcip": "src_addr", "dstip": "dst_addr",
    "srcport": "src_port", "dstport": "dst_port", "sport": "src_port", "dport": "dst_port",
    "srcas": "src_as", "dstas": "dst_as", "proto": "protocol", "app": "app_name",
    "domain": "observation_domain", "inif": "in_if", "outif": "out_if", "router": "exporter",
    "export": "export_protocol", "nexthop": "next_hop", "flags": "tcp_flags",
}  # fmt: skip
"""Short names of columns, for ``--by``."""

_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:/(\d+))?(?:/(\d+))?")
IPV6_PREFIX = 64
"""Prefix of IPv6 networks where ``--by src/24`` says only that of IPv4."""


@dataclass(frozen=True, slots=True)
class Key:
    """One thing to group by: a column, or the networks of an address column."""

    name: str
    """The name in results."""
    sql: str
    prefixes: tuple[int, int] | None = None
    """Of networks: the prefix lengths of IPv4 and IPv6."""


def key(selection: Selection, text: str) -> Key:
    """The key of ``src``, ``dst_port``, ``src/24`` or ``src/24/48`` (IPv4 and IPv6 prefix)."""
    match = _KEY.fullmatch(text)
    if match is None:
        raise QueryError(
            f"{text!r} is no column to group by; use one such as src, dst_port, src/24"
        )
    name = ALIASES.get(match[1].lower(), match[1])
    selection.need([name])
    if match[2] is None:
        return Key(name, quoted(name))
    if selection.columns[name] != ADDRESS:
        raise QueryError(f"{name!r} is not an address, so it has no networks: {text!r}")
    four, six = int(match[2]), int(match[3] or IPV6_PREFIX)
    if four > 32 or six > 128:
        raise QueryError(f"{text!r}: an IPv4 prefix is at most 32, an IPv6 prefix at most 128")
    number = f"{quoted(name)}::UHUGEINT"
    sql = (
        f"CASE WHEN {number} >> 32 = {V4_BASE >> 32} THEN {_masked(number, 96 + four)} "
        f"ELSE {_masked(number, six)} END"
    )
    return Key(f"{name}/{four}", sql, (four, six))


def _masked(number: str, bits: int) -> str:
    mask = (1 << 128) - (1 << (128 - bits))
    return f"({number} & {mask}::UHUGEINT)::UUID"


def networks(table: pa.Table, grouped: Iterable[Key]) -> pa.Table:
    """``table`` with the prefix lengths written to its networks."""
    for one in grouped:
        if one.prefixes is not None:
            four, six = one.prefixes
            written = [
                None if text is None else f"{text}/{six if ':' in text else four}"
                for text in table[one.name].to_pylist()
            ]
            at = table.column_names.index(one.name)
            table = table.set_column(at, one.name, pa.array(written, pa.string()))
    return table


def keys(selection: Selection, names: Iterable[str]) -> list[Key]:
    """The keys of ``names``; at least one, none twice."""
    found: list[Key] = []
    for name in names:
        for part in name.split(","):
            one = key(selection, part.strip())
            if one.name in _COUNTED:
                raise QueryError(f"{one.name!r} is what is counted, not what to group by")
            if one.name in [k.name for k in found]:
                raise QueryError(f"{part.strip()!r} is named twice")
            found.append(one)
    return found


# --- how to count ---

METRICS = ("bytes", "packets", "flows", "bps", "pps")
"""What results can be ordered by."""

_COUNTED = {"bytes", "packets"}
"""Columns of the records whose names in results are those of the sums."""

_MOST = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Counting:
    """The sums of a group of flows, scaled or as sent."""

    scaled: bool = True
    reads: tuple[str, ...] = field(default=("bytes", "packets", *SAMPLING))

    def sql(self) -> str:
        """The select list: bytes, packets, flows, unknown."""
        return (
            f"{self._sum('bytes')} AS bytes, {self._sum('packets')} AS packets, "
            f"count(*) AS flows, count(*) FILTER (NOT {SAMPLING_KNOWN}) AS unknown"
        )

    def _sum(self, name: str) -> str:
        factor = f"::HUGEINT * {RATE}" if self.scaled else ""
        return f"coalesce(sum({name}{factor}), 0)"


def bounded(name: str) -> str:
    """A 128-bit sum as 64 bits; more than that is no measurement, and is shown as the largest."""
    return f"least({name}, {_MOST})::UBIGINT"


def stored_span(
    engine: Engine, window: Window, tables: Sequence[str] = ("flows",)
) -> tuple[int, int]:
    """The bounds of ``window`` in ns; where it has none, those of all that ``tables`` store.

    From the files' names and metadata alone. (0, 0) where nothing is stored.
    """
    if window.since_ns is not None and window.until_ns is not None:
        return window.since_ns, window.until_ns
    files = [f for table in tables for f in snapshot(engine.store / table)]
    until = max((f.max_ns for f in files), default=-1) + 1
    until = window.until_ns if window.until_ns is not None else until
    since = min((f.min_ns for f in files), default=until)
    since = window.since_ns if window.since_ns is not None else since
    return since, max(until, since)


def known_span(engine: Engine, window: Window) -> tuple[int, int]:
    """As :func:`stored_span`, but no earlier than the first flow record that is stored: of the time
    before, nobody knows that there was no traffic, and a rate must not be diluted with it.
    """
    since, until = stored_span(engine, window)
    first, _ = stored_span(engine, Window(None, until))
    return (max(since, first) if first < until else since), until


@dataclass(frozen=True, slots=True)
class Result:
    """Rows, and what has to be said about them."""

    table: pa.Table
    total: dict[str, int | float]
    """``bytes``, ``packets``, ``flows`` of all selected rows, and ``unknown``: flows whose sampling
    rate is not known, which are counted as sent."""
    since_ns: int | None = None
    until_ns: int | None = None
    """The window that rates refer to."""

    @property
    def unknown_share(self) -> float:
        """The share of flows with unknown sampling, 0 to 1."""
        flows = self.total.get("flows", 0)
        return self.total.get("unknown", 0) / flows if flows else 0.0
