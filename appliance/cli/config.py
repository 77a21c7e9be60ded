"""``tandem config``."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.group()
def config() -> None:
    """What a node is told by its configuration file."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    r"""Say all that is wrong with FILE, with line and remedy; exit status 1 if it cannot be used.

    \b
    Examples:
      tandem config check /etc/tandem/tandem.toml
    """
    from appliance.config import check as check_file

    errors = check_file(file)
    for error in errors:
        click.echo(str(error), err=True)
    if errors:
        sys.exit(1)
    click.echo(f"{file}: can be used")
