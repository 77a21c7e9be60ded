"""The ledger as metrics: every counter of it, for each exporter and protocol."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from api.exposition import Metric
from appliance.ledger.counters import COUNTERS, Counter
from appliance.state import LedgerView

OTHERS = "others"
"""Label of all exporters that have no series of their own."""


def ledger_metrics(view: LedgerView, exporters: int) -> list[Metric]:
    """All counters; ``exporters``: how many, the busiest, have series of their own."""
    shown = _busiest(view.table, exporters)
    named = pc.if_else(
        pc.is_in(view.table["exporter"], pa.array(shown, pa.string())),
        view.table["exporter"],
        OTHERS,
    )
    table = view.table.set_column(0, "exporter", named)
    sums = table.group_by(["exporter", "protocol"]).aggregate([(c.name, "sum") for c in COUNTERS])
    sums = sums.sort_by([("exporter", "ascending"), ("protocol", "ascending")])
    labels = list(zip(sums["exporter"].to_pylist(), sums["protocol"].to_pylist(), strict=True))
    metrics = []
    for counter in COUNTERS:
        metric = Metric("exporter_" + metric_name(counter), _kind(counter), counter.help)
        values = sums[f"{counter.name}_sum"].to_pylist()
        for (exporter, protocol), value in zip(labels, values, strict=True):
            metric.add(value, exporter=exporter, protocol=protocol.lower())
        metrics.append(metric)
    return [*metrics, _retired(view, set(shown)), _balanced(view)]


def metric_name(counter: Counter) -> str:
    """The counter's name as Prometheus wants it: what, then the unit, then ``total``.

    ``datagrams_decoded`` is ``decoded_datagrams_total``. What may fall is no counter to Prometheus,
    and has no ``total``.
    """
    name = counter.name
    prefix, _, rest = name.partition("_")
    if prefix == counter.unit:
        name = f"{rest}_{counter.unit}"
    elif not name.endswith(counter.unit) and counter.unit != "units":
        name = f"{name}_{counter.unit}"
    return name if counter.falls else f"{name}_total"


def _kind(counter: Counter) -> Literal["counter", "gauge"]:
    return "gauge" if counter.falls else "counter"


def _busiest(table: pa.Table, count: int) -> list[str]:
    sums = table.group_by("exporter").aggregate([("datagrams_received", "sum")])
    order = [("datagrams_received_sum", "descending"), ("exporter", "ascending")]
    found: list[str] = sums.sort_by(order)["exporter"].slice(0, count).to_pylist()
    return found


def _retired(view: LedgerView, shown: set[str]) -> Metric:
    metric = Metric(
        "exporter_retired_records_total",
        "counter",
        "Flow records that left the store: past retention (expired), to make room on a full disk "
        "(disk_full), or because their file was damaged (corrupt)",
    )
    for reason, gone in view.retired.items():
        sums: dict[str, int] = {}
        for exporter, rows in gone.items():
            name = exporter if exporter in shown else OTHERS
            sums[name] = sums.get(name, 0) + rows
        for name, rows in sorted(sums.items()):
            metric.add(rows, exporter=name, reason=reason.value)
    return metric


def _balanced(view: LedgerView) -> Metric:
    metric = Metric(
        "ledger_imbalances",
        "gauge",
        "Figures of the ledger on disk that do not add up; anything but 0 is a fault of Tandem",
    )
    metric.add(len(view.imbalances()))
    return metric
