"""``tandem interfaces``."""

from __future__ import annotations

from pathlib import Path

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


@click.command()
@filter_argument
@click.option("--percent", default=95.0, show_default=True, help="Which percentile.")
@click.option("--step", default="5m", show_default=True, metavar="SPAN",
              help="Length of the intervals that it is taken of.")  # fmt: skip
@click.option("-n", "--limit", default=50, show_default=True, help="How many rows.")
@sampling_option
@time_options("1d")
@format_options
@data_option
def interfaces(
    filter_words: tuple[str, ...],
    percent: float,
    step: str,
    limit: int,
    as_sent: bool,
    last: str | None,
    since: str | None,
    until: str | None,
    shape: str | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Bandwidth of the exporters' interfaces, in and out: mean, 95th percentile and peak.

    Intervals without flows count as zero, so the window matters: ask for the time that is billed.
    It begins no earlier than the first record that is stored.

    \b
    Examples:
      tandem interfaces
      tandem interfaces --since 2025-01-01 --until 2025-02-01 exporter 192.0.2.1
      tandem interfaces --percent 99 --step 1m --last 6h --csv
    """
    from appliance.cli.render import sampling_remark, write
    from appliance.cli.summary import total_remark
    from appliance.query.engine import QueryError
    from appliance.query.interfaces import interfaces as query
    from appliance.query.times import read_span

    window = window_of(last, since, until, "1d")
    try:
        step_ns = read_span(step)
    except QueryError as error:
        raise Misuse(str(error)) from None
    with asking(data_dir, config_file) as engine:
        result = query(
            engine,
            filter=" ".join(filter_words),
            window=window,
            step_ns=step_ns,
            percent=percent,
            scaled=not as_sent,
        )
        if not result.table.num_rows:
            total_remark(engine, result, window)
            return
        hide = [] if result.total["unknown"] else ["unknown"]
        write(result.table.slice(0, limit), shape, hide=hide)
        if shape is None:
            total_remark(engine, result, window)
        sampling_remark(result, as_sent)
