"""``tandem health``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from appliance.cli.options import Failure, Misuse, config_option, load_config


@click.command()
@config_option
def health(config_file: Path | None) -> None:
    """Prove again and again that the collector of this node works, and tell keepalived.

    Runs in the foreground; SIGTERM or Ctrl-C ends it, and leaves what it said last in force. This
    is what a service of each node of a cluster runs; the table [health] says where it writes.

    \b
    Examples:
      tandem health --config /etc/tandem/tandem.toml
    """
    from appliance.health.watch import main

    config = load_config(config_file)
    if config.health is None:
        raise Misuse("the configuration has no table [health]: add it, with its directory")
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    try:
        sys.exit(main(config))
    except OSError as error:
        raise Failure(f"the collector cannot be watched: {error}") from None
