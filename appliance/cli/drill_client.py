"""``tandem drill client``: waits for the orders of drills, and sends their load."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from appliance.cli.client import Client, NotReachable, Refused, api_options

_PERIOD = 0.5
_PATIENCE = 120.0
"""Seconds in which what was sent has to be handed in."""


@click.command()
@click.option("--name", required=True, metavar="NAME", help="What drills call this client.")
@api_options
def client(name: str, url: str, token_file: Path | None, ca: Path | None) -> None:
    """Send the load of drills from this machine, which has to reach the VIPs; until Ctrl-C.

    It asks the API for orders, at the VIP or at any node, also while these are away for a moment.

    \b
    Examples:
      tandem drill client --name probe --url https://192.0.2.100:8443 --ca ca.pem --token-file token
    """
    api = Client(url, token_file, ca)
    away = ""
    while True:
        try:
            order = api.get(f"/v1/drill-clients/{name}/order")["order"]
            if away:
                click.echo("the API is there again", err=True)
            away = ""
        except NotReachable as error:
            if not away:
                click.echo(error.format_message(), err=True)
            away, order = error.format_message(), None
        if order is None:
            time.sleep(_PERIOD)
        else:
            _send(api, name, order)


def _send(api: Client, name: str, order: dict[str, Any]) -> None:
    from appliance.drill.send import send

    path = f"/v1/drill-clients/{name}/loads/{order['id']}"
    where = f"{order['address']} port {order['port']}"
    click.echo(f"{order['rate']} datagrams/s to {where} for {order['seconds']:g} s")
    if not _put(api, f"{path}/begun", None):
        return
    try:
        what: dict[str, Any] = {"log": send(order)}
    except (OSError, ValueError) as error:
        what = {"problem": str(error)}
    if _put(api, path, what):
        click.echo(what.get("problem", "sent"))


def _put(api: Client, path: str, body: Any) -> bool:
    """Whether a node has taken it."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            api.change("PUT", path, body=body)
            return True
        except Refused as refused:
            click.echo(refused.format_message(), err=True)
            return False
        except NotReachable as error:
            if time.monotonic() > until:
                click.echo(error.format_message(), err=True)
                return False
            time.sleep(_PERIOD)
