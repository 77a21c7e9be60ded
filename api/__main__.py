"""``python -m api [--config FILE]``: serve the API of the node whose state is on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from api.server import CannotListen, serve
from appliance.config import ConfigInvalid, default, load


@click.command()
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="The node's configuration file; without it, the defaults.",
)
def main(file: Path | None) -> None:
    """Serve the HTTP API until interrupted."""
    try:
        serve(load(file) if file else default(), path=file)
    except (ConfigInvalid, CannotListen) as error:
        click.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
