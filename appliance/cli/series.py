"""``tandem series``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from appliance.cli.options import (
    Misuse,
    asking,
    data_option,
    filter_argument,
    format_options,
    sampling_option,
    time_options,
    window_of,
)
from appliance.cli.top import METRICS

BAR = 40


@click.command()
@filter_argument
@click.option("--by", default="", metavar="COLUMN,...", help="Split by: as of `tandem top`.")
@click.option("-n", "--limit", default=5, show_default=True, help="Largest groups to show.")
@click.option("--metric", type=click.Choice(METRICS), default="bps", show_default=True,
              help="What to show.")  # fmt: skip
@click.option("--step", metavar="SPAN", help="Length of a bucket: 10s, 1m, 1h.  [to fit]")
@sampling_option
@time_options("1h")
@format_options
@data_option
def series(
    filter_words: tuple[str, ...],
    by: str,
    limit: int,
    metric: str,
    step: str | None,
    as_sent: bool,
    last: str | None,
    since: str | None,
    until: str | None,
    shape: str | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Traffic over time, by arrival of the flow records.

    \b
    Examples:
      tandem series
      tandem series --by dst_port --last 1d --step 1h
      tandem series --metric pps exporter 192.0.2.1 --csv
    """
    from appliance.cli.render import sampling_remark, write
    from appliance.cli.summary import total_remark
    from appliance.query.engine import QueryError
    from appliance.query.times import read_span
    from appliance.query.traffic import series as query

    window = window_of(last, since, until, "1h")
    try:
        step_ns = read_span(step) if step else None
    except QueryError as error:
        raise Misuse(str(error)) from None
    with asking(data_dir, config_file) as engine:
        result = query(
            engine,
            [by] if by else [],
            filter=" ".join(filter_words),
            window=window,
            metric=metric,
            step_ns=step_ns,
            limit=limit,
            scaled=not as_sent,
        )
        if not result.table.num_rows:
            total_remark(engine, result, window)
            return
        if shape is not None:
            write(result.table, shape)
        else:
            _table(result.table.to_pylist(), by, metric)
            total_remark(engine, result, window)
        sampling_remark(result, as_sent)


def _table(rows: list[dict[str, Any]], by: str, metric: str) -> None:
    from appliance.cli.render import grid
    from appliance.cli.text import shown

    if not by:
        most = max(float(row[metric]) for row in rows) or 1.0
        names = ["time_ns", metric, ""]
        grid(
            names,
            (
                [
                    shown("time_ns", row["time_ns"], row),
                    shown(metric, row[metric], row),
                    "▇" * round(BAR * float(row[metric]) / most),
                ]
                for row in rows
            ),
            right={metric},
        )
        return
    keys = [n for n in rows[0] if n not in {*METRICS, "time_ns", "unknown", "other"}]
    weight: dict[str, float] = {}
    cells: dict[int, dict[str, Any]] = {}
    for row in rows:
        group = "other" if row["other"] else " ".join(shown(k, row[k], row) for k in keys)
        weight[group] = weight.get(group, 0.0) + float(row[metric])
        cells.setdefault(row["time_ns"], {})[group] = row[metric]
    groups = sorted(weight, key=lambda g: (g == "other", -weight[g]))
    grid(
        ["time_ns", *groups],
        (
            [shown("time_ns", ns, {}), *(shown(metric, row.get(g, 0), {}) for g in groups)]
            for ns, row in cells.items()
        ),
        right=set(groups),
    )
