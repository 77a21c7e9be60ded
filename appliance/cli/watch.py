"""``tandem watch``."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.cli.options import data_directory, data_option, state_of


@click.command()
@data_option
def watch(data_dir: Path | None, config_file: Path | None) -> None:
    """The live view of a collector that runs; Ctrl-C ends the view, not the collector.

    Where stdout is no terminal, it writes a line every ten seconds.

    \b
    Examples:
      tandem watch
      tandem watch --data-dir /var/lib/tandem | tee rates.log
    """
    from appliance.cli import live
    from appliance.cli.figures import Figures

    directory = data_directory(data_dir, config_file)
    with state_of(directory, config_file) as state:
        head = [f"The collector with {directory}. Ctrl-C ends this view."]
        try:
            live.watch(directory, Figures(directory, state), head, lambda: True)
        except KeyboardInterrupt:
            click.echo()
