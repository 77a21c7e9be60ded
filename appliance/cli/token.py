"""``tandem token``: make, list and revoke tokens of the API."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from appliance.cli.client import Client, api_options

_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


@click.group()
def token() -> None:
    """Tokens of the API, which all nodes of the cluster know.

    A viewer may read; an operator may also drain nodes, move VIPs, pause and drill; an admin may
    also change the configuration, make and revoke tokens, and read the audit log.
    """


@token.command()
@click.option("--name", required=True, help="Who is to use it.")
@click.option("--role", type=click.Choice(["viewer", "operator", "admin"]), default="viewer",
              show_default=True, help="What it allows.")  # fmt: skip
@click.option("--days", type=click.IntRange(1, 3650), help="For which it is good.  [for ever]")
@_json_option
@api_options
def create(
    name: str,
    role: str,
    days: int | None,
    as_json: bool,
    url: str,
    token_file: Path | None,
    ca: Path | None,
) -> None:
    """Make a token. It is printed once, on stdout, and cannot be seen again.

    \b
    Examples:
      tandem token create --name prometheus > token
      tandem token create --name ci --role operator --days 90 --json | jq -r .token
    """
    asked: dict[str, Any] = {"name": name, "role": role}
    if days is not None:
        asked["days"] = days
    made = Client(url, token_file, ca).change("POST", "/v1/tokens", {}, asked)
    if as_json:
        click.echo(json.dumps(made))
        return
    click.echo(f"{made['id']}: {role} {name}, {_until(made)}; keep it, this is the only time that "
               "it is shown", err=True)  # fmt: skip
    click.echo(made["token"])


@token.command("list")
@_json_option
@api_options
def list_(as_json: bool, url: str, token_file: Path | None, ca: Path | None) -> None:
    """All tokens but those of api.token_file and the nodes' own.

    \b
    Examples:
      tandem token list
      tandem token list --json | jq -r '.tokens[] | select(.expired) | .id'
    """
    from appliance.cli.render import grid
    from appliance.cli.text import ago

    found = Client(url, token_file, ca).get("/v1/tokens")
    if as_json:
        click.echo(json.dumps(found))
        return
    now = time.time_ns()
    grid(
        ["id", "name", "role", "created", "by", "good"],
        (
            [one["id"], one["name"], one["role"], f"{ago(one['created_ns'], now)} ago",
             one["created_by"], _until(one)]
            for one in found["tokens"]
        ),
    )  # fmt: skip


@token.command()
@click.argument("token")
@_json_option
@api_options
def revoke(token: str, as_json: bool, url: str, token_file: Path | None, ca: Path | None) -> None:
    """Revoke TOKEN, by its id or its name, at once and for good.

    A node that does not answer learns of it when it is back.

    \b
    Examples:
      tandem token revoke ci
    """
    from urllib.parse import quote

    path = f"/v1/tokens/{quote(token, safe='')}"
    client = Client(url, token_file, ca)
    gone = client.change("DELETE", path, {})
    if as_json:
        click.echo(json.dumps(gone))
    else:
        click.echo(f"{gone['id']}: {gone['role']} {gone['name']} is revoked")
    for node in client.get("/v1/cluster")["nodes"]:
        if not node["reachable"]:
            click.echo(f"! {node['name']} does not answer, and takes it until it is back", err=True)


def _until(one: dict[str, Any]) -> str:
    from appliance.cli.text import moment

    if one["expires_ns"] is None:
        return "until revoked"
    return f"{'expired' if one['expired'] else 'until'} {moment(one['expires_ns'])}"
