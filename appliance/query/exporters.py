"""Who exports: last record, rates and sampling of each exporter and observation domain."""

from __future__ import annotations

import pyarrow as pa

from appliance.query.engine import EVER, Engine, Window
from appliance.query.select import SAMPLING, Result, known_span, select
from appliance.query.terms import SAMPLING_KNOWN
from appliance.query.traffic import SECOND


def exporters(
    engine: Engine,
    *,
    filter: str = "",  # noqa: A002 - the word that users and the API know
    window: Window = EVER,
) -> Result:
    """One row for each exporter, export protocol and observation domain with flows in ``window``.

    Columns: ``exporter``, ``export_protocol``, ``observation_domain``, ``first_ns``, ``last_ns``
    (arrival), ``flows``, ``flows_per_second``, ``bytes`` and ``packets`` as sent, ``rate_min`` and
    ``rate_max`` (known sampling rates), ``unknown`` (flows whose sampling rate is not known).
    """
    selection = select(engine, filter, window, discards=True)
    selection.need(["exporter", "export_protocol", "observation_domain", "bytes", "packets"])
    selection.need(SAMPLING)
    since, until = known_span(engine, window)
    seconds = max(until - since, SECOND) / SECOND
    table = selection.fetch(
        f"""SELECT exporter, export_protocol, observation_domain, min(received_ns) AS first_ns,
                   max(received_ns) AS last_ns, count(*) AS flows,
                   count(*) / {seconds} AS flows_per_second,
                   coalesce(sum(bytes), 0) AS bytes, coalesce(sum(packets), 0) AS packets,
                   min(sampling_rate) FILTER ({SAMPLING_KNOWN}) AS rate_min,
                   max(sampling_rate) FILTER ({SAMPLING_KNOWN}) AS rate_max,
                   count(*) FILTER (NOT {SAMPLING_KNOWN}) AS unknown
            FROM flows WHERE {selection.where} GROUP BY ALL
            ORDER BY exporter, export_protocol, observation_domain"""
    )
    return Result(table, _total(table), since, until)


def _total(table: pa.Table) -> dict[str, int | float]:
    names = ("bytes", "packets", "flows", "unknown")
    return {name: sum(table[name].to_pylist()) for name in names}
