"""Top talkers and time series."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from appliance.query.engine import EVER, Engine, QueryError, Window, quoted
from appliance.query.select import (
    METRICS,
    Counting,
    Key,
    Result,
    bounded,
    keys,
    known_span,
    networks,
    select,
    stored_span,
)

SECOND = 10**9
MAX_LIMIT = 100_000
MAX_BUCKETS = 20_000
OTHER = "other"


def top(
    engine: Engine,
    by: Sequence[str] = ("src_addr",),
    *,
    filter: str = "",  # noqa: A002 - the word that users and the API know
    window: Window = EVER,
    metric: str = "bytes",
    limit: int = 10,
    scaled: bool = True,
) -> Result:
    """The ``limit`` groups with the largest ``metric``.

    Columns: the keys, ``bytes``, ``packets``, ``flows``, ``bps``, ``pps`` (over the window, from
    the first stored record on), ``share`` (of the metric's total, 0 to 1) and
    ``unknown`` (flows of the group with unknown sampling).
    """
    _check(metric, limit)
    selection = select(engine, filter, window)
    grouped = keys(selection, by)
    if not grouped:
        raise QueryError("nothing to group by; name a column such as src")
    counting = Counting(scaled)
    selection.need(counting.reads)
    column = {"bps": "bytes", "pps": "packets"}.get(metric, metric)
    table = selection.fetch(
        f"""WITH g AS MATERIALIZED (
              SELECT {_keys(grouped)}, {counting.sql()}
              FROM flows WHERE {selection.where} GROUP BY ALL),
            t AS (SELECT sum(bytes) AS bytes, sum(packets) AS packets, sum(flows) AS flows,
                         sum(unknown) AS unknown FROM g)
            SELECT {_names(grouped)}, {bounded("g.bytes")} AS bytes,
                   {bounded("g.packets")} AS packets, g.flows, g.unknown,
                   g.{column} / nullif(t.{column}, 0) AS share,
                   {bounded("t.bytes")} AS total_bytes, {bounded("t.packets")} AS total_packets,
                   t.flows AS total_flows, t.unknown AS total_unknown
            FROM g, t ORDER BY g.{column} DESC, {_order(grouped)} LIMIT {limit}"""
    )
    total = _total(table)
    since, until = known_span(engine, window)
    seconds = max(until - since, SECOND) / SECOND
    rates = {
        "bps": [float(v) * 8 / seconds for v in table["bytes"].to_pylist()],
        "pps": [float(v) / seconds for v in table["packets"].to_pylist()],
    }
    shown = table.select([k.name for k in grouped] + ["bytes", "packets", "flows"])
    for name, values in rates.items():
        shown = shown.append_column(name, pa.array(values, pa.float64()))
    for name in ("share", "unknown"):
        shown = shown.append_column(name, table[name])
    return Result(networks(shown, grouped), total, since, until)


def series(
    engine: Engine,
    by: Sequence[str] = (),
    *,
    filter: str = "",  # noqa: A002
    window: Window = EVER,
    metric: str = "bytes",
    step_ns: int | None = None,
    limit: int = 5,
    scaled: bool = True,
) -> Result:
    """Traffic over time: one row for each bucket of ``step_ns`` and group, where there was any.

    Columns: ``time_ns`` (the bucket's begin), the keys, ``bytes``, ``packets``, ``flows``, ``bps``,
    ``pps``, ``unknown``. With ``by``: the ``limit`` largest groups of the whole window, and the sum
    of the rest, whose keys are null and whose column ``other`` is true. A flow belongs to the
    bucket in which its record arrived. Without ``step_ns``, there are at most 120 buckets.
    """
    _check(metric, limit)
    selection = select(engine, filter, window)
    counting = Counting(scaled)
    grouped = keys(selection, by)
    selection.need(counting.reads)
    since, until = stored_span(engine, window)
    step = step_ns or nice_step(until - since)
    if step < 1 or (until - since) // step > MAX_BUCKETS:
        raise QueryError(
            f"{(until - since) / SECOND:g} s in steps of {step / SECOND:g} s are more than "
            f"{MAX_BUCKETS} buckets; use a longer step"
        )
    column = {"bps": "bytes", "pps": "packets"}.get(metric, metric)
    bucket = f"received_ns - received_ns % {step} AS time_ns"
    selected = _keys(grouped) + ", " if grouped else ""
    chosen = _names(grouped, "c.") + ", " if grouped else ""
    # groups that are not among the largest find no partner and have null keys
    same = " AND ".join(
        f"g.{quoted(k.name)} IS NOT DISTINCT FROM c.{quoted(k.name)}" for k in grouped
    )
    joined = f"LEFT JOIN c ON {same}" if grouped else ""
    largest = (
        f""", c AS (SELECT {_names(grouped, "")}, true AS chosen FROM g GROUP BY ALL
                 ORDER BY sum({column}) DESC, {_order(grouped)} LIMIT {limit})"""
        if grouped
        else ""
    )
    other = "c.chosen IS NULL" if grouped else "false"
    table = selection.fetch(
        f"""WITH g AS MATERIALIZED (
              SELECT {bucket}, {selected}{counting.sql()}
              FROM flows WHERE {selection.where} GROUP BY ALL){largest}
            SELECT g.time_ns, {chosen}{other} AS {OTHER}, {bounded("sum(g.bytes)")} AS bytes,
                   {bounded("sum(g.packets)")} AS packets, sum(g.flows) AS flows,
                   sum(g.unknown) AS unknown
            FROM g {joined} GROUP BY ALL
            ORDER BY time_ns, {OTHER}, sum(g.{column}) DESC{", " + _order(grouped) if by else ""}"""
    )
    return _rates(table, grouped, step, since, until)


def nice_step(length_ns: int, buckets: int = 120) -> int:
    """The smallest customary step that cuts ``length_ns`` into at most ``buckets``."""
    for seconds in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400):
        if length_ns <= seconds * SECOND * buckets:
            return seconds * SECOND
    days = -(-length_ns // (86400 * SECOND * buckets))
    return days * 86400 * SECOND


def _check(metric: str, limit: int) -> None:
    if metric not in METRICS:
        raise QueryError(f"no metric is called {metric!r}; use one of {', '.join(METRICS)}")
    if not 1 <= limit <= MAX_LIMIT:
        raise QueryError(f"a limit is from 1 to {MAX_LIMIT}, not {limit}")


def _keys(grouped: list[Key]) -> str:
    return ", ".join(f"{k.sql} AS {quoted(k.name)}" for k in grouped)


def _names(grouped: list[Key], table: str = "g.") -> str:
    return ", ".join(f"{table}{quoted(k.name)}" for k in grouped)


def _order(grouped: list[Key]) -> str:
    """What decides between groups that are alike, so that the same question has one answer."""
    return ", ".join(quoted(k.name) for k in grouped)


def _total(table: pa.Table) -> dict[str, int | float]:
    """The totals that every row of a top result carries."""
    names = ("bytes", "packets", "flows", "unknown")
    if not table.num_rows:
        return dict.fromkeys(names, 0)
    row = table.slice(0, 1).to_pylist()[0]
    return {name: row[f"total_{name}"] for name in names}


def _rates(table: pa.Table, grouped: list[Key], step: int, since: int, until: int) -> Result:
    seconds = step / SECOND
    total: dict[str, int | float] = {
        name: sum(table[name].to_pylist()) for name in ("bytes", "packets", "flows", "unknown")
    }
    shown = table.select(["time_ns", *(k.name for k in grouped), "bytes", "packets", "flows"])
    for name, of, factor in (("bps", "bytes", 8), ("pps", "packets", 1)):
        rate = [float(v) * factor / seconds for v in table[of].to_pylist()]
        shown = shown.append_column(name, pa.array(rate, pa.float64()))
    shown = shown.append_column("unknown", table["unknown"])
    if grouped:
        shown = shown.append_column(OTHER, table[OTHER])
    return Result(networks(shown, grouped), total, since, until)
