"""``tandem collect``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from appliance.cli.options import Failure, config_option, load_config


@click.command()
@config_option
def collect(config_file: Path | None) -> None:
    """The collector alone, in the foreground: receive, decode, journal and store.

    SIGTERM or Ctrl-C ends it, SIGHUP makes it read its configuration again. This is what the
    service of a node runs; `tandem run` is for trying things out.

    \b
    Examples:
      tandem collect --config /etc/tandem/tandem.toml
    """
    from appliance.receive.sockets import ListenError
    from appliance.supervisor import main

    config = load_config(config_file)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    try:
        sys.exit(main(config, config_file))
    except ListenError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(f"the collector cannot run with {config.data_dir}: {error}") from None
