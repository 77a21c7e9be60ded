"""``tandem switchover``."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path

import click

from appliance.cli.client import Client, api_options
from appliance.cli.follow import follow, new_key, status_of
from appliance.cli.options import Misuse


@click.command()
@click.option("--vip", metavar="VIP", help="Which; may be left out where there is only one.")
@click.option("--target", metavar="NODE", help="The node that is to hold it; else any other.")
@click.option("--at", metavar="TIME", help="Not before, such as 2026-01-01T03:00+01:00.")
@click.option("--deadline", default=30.0, show_default=True, help="Seconds; then it is taken back.")
@click.option("--no-wait", is_flag=True, help="Do not wait for its end.")
@click.option("--json", "as_json", is_flag=True, help="The operation as one JSON document.")
@api_options
def switchover(
    vip: str | None,
    target: str | None,
    at: str | None,
    deadline: float,
    no_wait: bool,
    as_json: bool,
    url: str,
    token_file: Path | None,
    ca: Path | None,
) -> None:
    """Move a VIP to another node; nothing is lost, and no node stays drained.

    Refused while the cluster is paused, while another operation runs, or if no other node is fit.
    One with --at is only begun by this command; follow it at /v1/operations.

    The exit status is 0 when the VIP has moved, 1 when it was refused or has not moved in time, 2
    when the API cannot be reached, 3 when its end is not known.

    \b
    Examples:
      tandem switchover --vip v1
      tandem switchover --vip v1 --target n2 --deadline 10
      tandem switchover --vip v2 --at 2026-01-01T03:00+01:00
    """
    wanted: dict[str, object] = {"deadline_seconds": deadline}
    wanted |= {"vip": vip} if vip else {}
    wanted |= {"target": target} if target else {}
    if at is not None:
        wanted["at"] = _moment(at)
    client = Client(url, token_file, ca)
    operation = client.change("POST", "/v1/switchovers", body=wanted, headers=new_key())
    if not (no_wait or at):
        operation = follow(client, operation, quiet=as_json)
    if as_json:
        click.echo(json.dumps(operation))
    elif no_wait or at:
        click.echo(f"operation {operation['id']} is {operation['state']}")
    elif operation["state"] == "succeeded":
        moved = operation["figures"].get("vip_move_ms")
        click.echo(f"moved within {moved:.0f} ms" if moved is not None else "moved")
    else:
        click.echo(f"{operation['state']}: {operation['problem']}", err=True)
    if not (no_wait or at):
        sys.exit(status_of(operation))


def _moment(text: str) -> str:
    """A time with its zone; without one, that of this machine is meant."""
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except ValueError:
        raise Misuse(f"{text!r} is no time; use one such as 2026-01-01T03:00+01:00") from None
