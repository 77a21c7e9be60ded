"""``tandem top``."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.cli.options import (
    asking,
    data_option,
    filter_argument,
    format_options,
    sampling_option,
    time_options,
    window_of,
)

METRICS = ["bytes", "packets", "flows", "bps", "pps"]


@click.command()
@filter_argument
@click.option("--by", default="src", show_default=True, metavar="COLUMN,...",
              help="What to group by: src, dst, dst_port, proto, src_as, exporter, in_if, app, "
              "src/24 (networks), or any column.")  # fmt: skip
@click.option("-n", "--limit", default=10, show_default=True, help="How many.")
@click.option("--metric", type=click.Choice(METRICS), default="bytes", show_default=True,
              help="What to order by.")  # fmt: skip
@sampling_option
@time_options("1h")
@format_options
@data_option
def top(
    filter_words: tuple[str, ...],
    by: str,
    limit: int,
    metric: str,
    as_sent: bool,
    last: str | None,
    since: str | None,
    until: str | None,
    shape: str | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Who or what has most of the traffic.

    Counters are multiplied by the sampling rate where it is known; the column "unscaled" counts the
    flows where it is not.

    \b
    Examples:
      tandem top
      tandem top --by src,dst_port 'dst net 10.0.0.0/8 and not port 53'
      tandem top --by src/24 --last 1d --metric flows
      tandem top --by exporter,in_if --json
    """
    from appliance.cli.render import sampling_remark, write
    from appliance.cli.summary import total_remark
    from appliance.query.traffic import top as query

    window = window_of(last, since, until, "1h")
    with asking(data_dir, config_file) as engine:
        result = query(
            engine,
            [by],
            filter=" ".join(filter_words),
            window=window,
            metric=metric,
            limit=limit,
            scaled=not as_sent,
        )
        if not result.table.num_rows:
            total_remark(engine, result, window)
            return
        hide = [] if result.total["unknown"] else ["unknown"]
        write(result.table, shape, hide=hide)
        if shape is None:
            total_remark(engine, result, window)
        sampling_remark(result, as_sent)
