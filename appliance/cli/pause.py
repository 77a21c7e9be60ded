"""``tandem pause``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from appliance.cli.client import Client, api_options


@click.command()
@click.option("--reason", default="", metavar="TEXT", help="Shown to whoever is refused.")
@click.option("--seconds", type=float, help="The pause ends by itself after so long.")
@click.option("--undo", is_flag=True, help="End the pause.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@api_options
def pause(
    reason: str,
    seconds: float | None,
    undo: bool,
    as_json: bool,
    url: str,
    token_file: Path | None,
    ca: Path | None,
) -> None:
    """Let nothing be begun through the API of any node, until --undo.

    What runs goes on. VIPs still move when a node or its collector fails, and nodes can still be
    drained: VRRP asks no API. `tandem status` shows a pause.

    \b
    Examples:
      tandem pause --reason "switches are replaced" --seconds 7200
      tandem pause --undo
    """
    client = Client(url, token_file, ca)
    if undo:
        found = client.change("DELETE", "/v1/pause")
    else:
        wanted = {"reason": reason} | ({"seconds": seconds} if seconds is not None else {})
        found = client.change("PUT", "/v1/pause", body=wanted)
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo("the cluster is paused" if found["paused"] else "the cluster is not paused")
