"""Bandwidth of the exporters' interfaces: mean, 95th percentile and peak."""

from __future__ import annotations

import pyarrow as pa

from appliance.query.engine import EVER, Engine, QueryError, Window
from appliance.query.filter import reads
from appliance.query.macros import RATE
from appliance.query.select import SAMPLING, Result, select, stored_span
from appliance.query.terms import SAMPLING_KNOWN
from appliance.query.traffic import SECOND
from appliance.store.rollup import MINUTE_NS

_ROLLED_UP = {"exporter", "in_if", "out_if", "direction"}
"""Columns that the roll-ups have, too."""

STEP_NS = 300 * SECOND
"""Five minutes: what the 95th percentile is customarily billed by."""

_INGRESS = "direction IS DISTINCT FROM 1"
"""flowDirection (IPFIX 61): 1 is egress; exporters that do not say it meter at the ingress."""


def interfaces(
    engine: Engine,
    *,
    filter: str = "",  # noqa: A002 - the word that users and the API know
    window: Window = EVER,
    step_ns: int = STEP_NS,
    percent: float = 95.0,
    scaled: bool = True,
) -> Result:
    """Bits a second of each interface and way, over buckets of ``step_ns``.

    Columns: ``exporter``, ``interface``, ``name`` (from options data), ``way`` (``in``, ``out``),
    ``mean_bps``, ``p95_bps`` (the percentile asked for; nearest rank; buckets without flows count
    as zero), ``max_bps``, ``bytes``, ``flows``, ``unknown``. Largest percentile first.

    An exporter may meter flows at the ingress, at the egress, or both, and then reports each flow
    twice. Both views are kept apart, and the larger of the two counts in each bucket.

    Where the step is in whole minutes and the filter is of exporters and interfaces only, the
    minute roll-ups are read: quickly, and further back than the flow records reach. The window is
    then widened to whole minutes. It never begins before the first stored record.
    """
    if not 0 < percent <= 100:
        raise QueryError(f"a percentile is above 0 and at most 100, not {percent:g}")
    if step_ns < 1:
        raise QueryError("a step is longer than nothing")
    selection = select(engine, filter, window)
    rolled_up = step_ns % MINUTE_NS == 0 and reads(selection.filter) <= _ROLLED_UP
    if rolled_up:
        window = whole_minutes(window)
        selection = select(engine, filter, window)
    selection.need([*_ROLLED_UP, "in_if_name", "out_if_name", "bytes", *SAMPLING])
    since, until = _begun(engine, window)
    count = max(-(-(until - since) // step_ns), 1)
    factor = f" * {RATE}" if scaled else ""
    source = f"""SELECT received_ns AS ns, exporter, in_if, out_if, direction, in_if_name,
                        out_if_name, bytes::DOUBLE{factor} AS size, 1 AS flows,
                        (NOT {SAMPLING_KNOWN})::BIGINT AS unknown
                 FROM flows WHERE {selection.where}"""
    if rolled_up:
        source += f""" UNION ALL
                 SELECT minute_ns, exporter, in_if, out_if, direction, NULL, NULL,
                        {"scaled_bytes" if scaled else "bytes::DOUBLE"}, flows, unscaled_flows
                 FROM rollup WHERE {window.sql("minute_ns")} AND {selection.condition}"""
    legs = " UNION ALL ".join(
        f"""SELECT exporter, {way}_if AS interface, '{way}' AS way,
                   (ns - {since}) // {step_ns} AS bucket, max({way}_if_name) AS name,
                   sum(size) FILTER ({_INGRESS}) AS ingress,
                   sum(size) FILTER (direction = 1) AS egress,
                   sum(flows) AS flows, sum(unknown) AS unknown
            FROM s WHERE {way}_if IS NOT NULL GROUP BY exporter, {way}_if, bucket"""
        for way in ("in", "out")
    )
    # less than one step of records is a shorter bucket, not one that is mostly empty
    seconds = min(step_ns, max(until - since, 1)) / SECOND
    length = max(until - since, 1) / SECOND
    # of `count` values in order, the percentile is the rank-th; those that are not there are zeros
    rank = max(-(-count * percent // 100), 1)
    table = selection.fetch(
        f"""WITH s AS NOT MATERIALIZED ({source}),
                 b AS (SELECT *, greatest(coalesce(ingress, 0), coalesce(egress, 0)) AS size
                       FROM ({legs})),
                 i AS (SELECT exporter, interface, way, max(name) AS name,
                              list_sort(list(size)) AS sizes, sum(size) AS bytes,
                              max(size) AS peak, sum(flows) AS flows, sum(unknown) AS unknown
                       FROM b GROUP BY exporter, interface, way)
            SELECT exporter, interface, name, way, bytes * 8 / {length} AS mean_bps,
                   coalesce(CASE WHEN {rank:.0f} > {count} - len(sizes)
                     THEN sizes[({rank:.0f} - ({count} - len(sizes)))::BIGINT] END, 0)
                     * 8 / {seconds} AS p95_bps,
                   peak * 8 / {seconds} AS max_bps,
                   least(bytes, 9e18)::UBIGINT AS bytes, flows, unknown
            FROM i ORDER BY p95_bps DESC, mean_bps DESC, exporter, interface, way""",
        rolled_up,
    )
    return Result(table, _total(table), since, until)


def whole_minutes(window: Window) -> Window:
    """``window``, widened to minutes of the clock."""
    since, until = window.since_ns, window.until_ns
    return Window(
        None if since is None else since // MINUTE_NS * MINUTE_NS,
        None if until is None else -(-until // MINUTE_NS) * MINUTE_NS,
    )


def _begun(engine: Engine, window: Window) -> tuple[int, int]:
    """The bounds of ``window``, but none before the first minute that anything is stored of: of the
    time before, nobody knows that there was no traffic.
    """
    since, until = stored_span(engine, window, ("flows", "rollup"))
    first, _ = stored_span(engine, Window(None, until), ("flows", "rollup"))
    since = max(since, first // MINUTE_NS * MINUTE_NS)
    return since, max(until, since)


def _total(table: pa.Table) -> dict[str, int | float]:
    """Each flow is in a row of its way in and in one of its way out: the fuller of the two."""
    ways = table["way"].to_pylist()
    total: dict[str, int | float] = {}
    for name in ("bytes", "flows", "unknown"):
        sums = {"in": 0, "out": 0}
        for way, value in zip(ways, table[name].to_pylist(), strict=True):
            sums[way] += value
        total[name] = max(sums.values())
    return total
