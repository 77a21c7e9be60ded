"""Bandwidth of the exporters' interfaces: mean, 95th percentile and peak."""

from __future__ import annotations

import pyarrow as pa

from appliance.query.engine import EVER, Engine, QueryError, Window
from appliance.query.macros import RATE
from appliance.query.select import SAMPLING, Result, select
from appliance.query.terms import SAMPLING_KNOWN
from appliance.query.traffic import SECOND, span

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
    """
    if not 0 < percent <= 100:
        raise QueryError(f"a percentile is above 0 and at most 100, not {percent:g}")
    selection = select(engine, filter, window)
    selection.need(
        ["exporter", "in_if", "out_if", "in_if_name", "out_if_name", "direction", "bytes"]
    )
    selection.need(SAMPLING)
    since, until = span(selection)
    count = max(-(-(until - since) // step_ns), 1)
    factor = f"::HUGEINT * {RATE}" if scaled else ""
    legs = " UNION ALL ".join(
        f"""SELECT exporter, {way}_if AS interface, '{way}' AS way,
                   (received_ns - {since}) // {step_ns} AS bucket,
                   max({way}_if_name) AS name,
                   sum(bytes{factor}) FILTER ({_INGRESS}) AS ingress,
                   sum(bytes{factor}) FILTER (direction = 1) AS egress,
                   count(*) AS flows, count(*) FILTER (NOT {SAMPLING_KNOWN}) AS unknown
            FROM flows WHERE {selection.where} AND {way}_if IS NOT NULL
            GROUP BY exporter, {way}_if, bucket"""
        for way in ("in", "out")
    )
    seconds = step_ns / SECOND
    length = max(until - since, 1) / SECOND
    # of `count` values in order, the percentile is the rank-th; those that are not there are zeros
    rank = max(-(-count * percent // 100), 1)
    table = selection.fetch(
        f"""WITH b AS (SELECT *, greatest(coalesce(ingress, 0), coalesce(egress, 0))::DOUBLE
                         AS size FROM ({legs})),
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
            FROM i ORDER BY p95_bps DESC, mean_bps DESC, exporter, interface, way"""
    )
    return Result(table, _total(table), since, until)


def _total(table: pa.Table) -> dict[str, int | float]:
    return {name: sum(table[name].to_pylist()) for name in ("bytes", "flows", "unknown")}
