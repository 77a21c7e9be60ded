"""``tandem flows``."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.cli.options import (
    asking,
    data_option,
    filter_argument,
    format_options,
    time_options,
    window_of,
)


@click.command()
@filter_argument
@click.option("-n", "--limit", default=20, show_default=True, help="How many.")
@click.option("--columns", metavar="COLUMN,...", help="Which columns, or all: those with values.")
@click.option("--after", "token", metavar="TOKEN", help="The page after one that ended with TOKEN.")
@time_options("1h")
@format_options
@data_option
def flows(
    filter_words: tuple[str, ...],
    limit: int,
    columns: str | None,
    token: str | None,
    last: str | None,
    since: str | None,
    until: str | None,
    shape: str | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Single flow records, newest first, with counters as sent.

    \b
    Examples:
      tandem flows host 10.1.1.1
      tandem flows -n 100 'src net 10.0.0.0/8 and dst port in [80 443] and bytes > 1m'
      tandem flows 'flags S and not flags A' --columns received_ns,src_addr,dst_port
      tandem flows --columns all --json exporter 192.0.2.1
    """
    from appliance.cli.render import remark, write
    from appliance.cli.summary import nothing_remark
    from appliance.query.search import DEFAULT_COLUMNS
    from appliance.query.search import flows as query
    from appliance.query.select import ALIASES

    window = window_of(last, since, until, "1h")
    wanted: list[str] | None = list(DEFAULT_COLUMNS)
    if columns == "all":
        wanted = None
    elif columns:
        wanted = [ALIASES.get(c.strip().lower(), c.strip()) for c in columns.split(",")]
    with asking(data_dir, config_file) as engine:
        page = query(
            engine,
            filter=" ".join(filter_words),
            window=window,
            columns=wanted,
            limit=limit,
            token=token,
        )
        if not page.table.num_rows:
            nothing_remark(engine, window)
            return
        write(page.table, shape, hide=["sampling_source"] if columns is None else [])
    if page.next:
        remark(f"more with --after {page.next}")
