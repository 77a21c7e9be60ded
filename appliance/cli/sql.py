"""``tandem sql``."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.cli.options import asking, data_option, format_options, time_options, window_of

MANY = 12
"""A table with more columns is shown without the empty ones."""


@click.command()
@click.argument("statement")
@time_options("all")
@format_options
@data_option
def sql(
    statement: str,
    last: str | None,
    since: str | None,
    until: str | None,
    shape: str | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Any question, in DuckDB's SQL, over the tables flows, counters and options.

    Addresses are UUIDs, shown as addresses: compare them with addr('10.0.0.1') or
    in_net(src_addr, '10.0.0.0/8'). ip(x), mac(x), flags(x), protocol_name(x), export_name(x),
    sampling_source_name(x) and utc(x) make text or a timestamp of a column; is_ipv4(x) tests it.
    Counters are as sent; sampling_rate means nothing where sampling_source is 0. The time options
    limit the rows of all three tables.

    \b
    Examples:
      tandem sql 'describe flows'
      tandem sql 'select exporter, count(*) from flows group by all'
      tandem sql --last 1h "select ip(src_addr) as a, sum(bytes * sampling_rate) as b from flows
        where in_net(dst_addr, '10.0.0.0/8') and sampling_source > 0 group by a order by b desc"
    """
    from appliance.cli.render import remark, write
    from appliance.query.sql import sql as query

    window = window_of(last, since, until, "all")
    with asking(data_dir, config_file) as engine:
        table = query(engine, statement, window)
    hidden: list[str] = []
    if shape is None and table.num_columns > MANY and table.num_rows:
        hidden = [n for n in table.column_names if table[n].null_count == table.num_rows]
    write(table, shape, hide=hidden, verbatim=True)
    if hidden:
        remark(f"{len(hidden)} columns without any value are not shown")
