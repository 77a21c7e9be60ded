"""``tandem exporters``."""

from __future__ import annotations

import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from appliance.cli.options import (
    asking,
    data_option,
    filter_argument,
    format_options,
    load_config,
    of_node,
    time_options,
    window_of,
)


@click.command()
@filter_argument
@time_options("1h")
@format_options
@data_option
def exporters(
    filter_words: tuple[str, ...],
    last: str | None,
    since: str | None,
    until: str | None,
    shape: str | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Who exports: last record, rates and sampling of each exporter and observation domain.

    \b
    Examples:
      tandem exporters
      tandem exporters --last 1d sampling unknown
      tandem exporters --json
    """
    import pyarrow as pa

    from appliance.cli.render import grid, write
    from appliance.cli.summary import total_remark
    from appliance.query.exporters import exporters as query

    window = window_of(last, since, until, "1h")
    config = load_config(config_file or of_node())
    with asking(data_dir, config_file) as engine:
        result = query(engine, filter=" ".join(filter_words), window=window)
        table = result.table
        if not table.num_rows:
            total_remark(engine, result, window)
            return
    found = [config.exporter_of(ip_address(a)) for a in table["exporter"].to_pylist()]
    names = [e.name if e else None for e in found]
    table = table.add_column(1, "name", pa.array(names, pa.string()))
    if shape is not None:
        write(table, shape)
        return
    now = time.time_ns()
    titles = ["exporter", "name", "export_protocol", "observation_domain", "last record", "flows",
              "flows_per_second", "sampling"]  # fmt: skip
    grid(titles, (_cells(row, now) for row in table.to_pylist()),
         right={"flows", "flows_per_second"})  # fmt: skip


def _cells(row: dict[str, Any], now: int) -> list[str]:
    from appliance.cli.text import ago, percent, shown

    same = ("exporter", "name", "export_protocol", "observation_domain")
    low, high, unknown = row["rate_min"], row["rate_max"], row["unknown"]
    rates = [] if low is None else [f"1/{low}" if low == high else f"1/{low} to 1/{high}"]
    if unknown:
        part = "" if unknown == row["flows"] else f" for {percent(unknown / row['flows'])}"
        rates.append(f"unknown{part}")
    return [
        *(shown(name, row[name], row) for name in same),
        f"{ago(row['last_ns'], now)} ago",
        shown("flows", row["flows"], row),
        shown("flows_per_second", row["flows_per_second"], row),
        ", ".join(rates),
    ]
