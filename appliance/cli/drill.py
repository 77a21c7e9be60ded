"""``tandem drill``: run, list, show, diff, client."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from appliance.cli.client import Client, api_options
from appliance.cli.drill_client import client
from appliance.cli.follow import follow, new_key, status_of

_KINDS = (
    *("switchover", "collector-kill", "collector-hang", "keepalived-stop", "haproxy-stop"),
    *("partition", "node-kill"),
)
_FIGURES = (
    ("sent", "datagrams sent"),
    ("lost", "lost"),
    ("duplicated", "stored twice by a node"),
    ("on_several_nodes", "stored by several nodes"),
    ("longest_gap_ms", "longest gap, ms"),
    ("detection_ms", "noticed after, ms"),
    ("vip_move_ms", "VIP moved after, ms"),
    ("first_datagram_ms", "first datagram elsewhere after, ms"),
    ("first_flow_ms", "first flow on disk there after, ms"),
    ("restored_ms", "all well again after the end, ms"),
)
_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


@click.group()
def drill() -> None:
    """Deliberate failovers under a load of their own, measured by what the nodes have stored.

    The load is sent by a client, which has to be there first: `tandem drill client`.
    """


drill.add_command(client)


@drill.command()
@click.argument("kind", type=click.Choice(_KINDS))
@click.option("--vip", metavar="VIP", help="Which; may be left out where there is only one.")
@click.option("--source", metavar="NAME", help="Client or node that sends the load.")
@click.option("--rate", default=1000, show_default=True, help="Datagrams a second.")
@click.option("--seconds", default=12.0, show_default=True, help="How long the load lasts.")
@click.option("--dry-run", is_flag=True, help="Only say whether it could begin, and why not.")
@click.option("--no-wait", is_flag=True, help="Do not wait for its end.")
@_json_option
@api_options
def run(
    kind: str,
    vip: str | None,
    source: str | None,
    rate: int,
    seconds: float,
    dry_run: bool,
    no_wait: bool,
    as_json: bool,
    url: str,
    token_file: Path | None,
    ca: Path | None,
) -> None:
    """Do a drill to the node that holds a VIP, and say what became of each datagram.

    The exit status is 0 when all objectives were met, 1 when not, or when it was refused or failed,
    2 when the API cannot be reached, 3 when its end is not known.

    \b
    Examples:
      tandem drill run switchover --dry-run
      tandem drill run keepalived-stop --vip v1 --source probe
      tandem drill run partition --rate 5000 --seconds 20 --json
    """
    wanted: dict[str, object] = {"kind": kind, "rate": rate, "seconds": seconds}
    wanted |= {"vip": vip} if vip else {}
    wanted |= {"source": source} if source else {}
    api = Client(url, token_file, ca)
    if dry_run:
        found = api.change("POST", "/v1/drills", body=wanted | {"dry_run": True})
        if as_json:
            click.echo(json.dumps(found))
        for check in () if as_json else found["checks"]:
            detail = f": {check['detail']}" if check["detail"] else ""
            click.echo(f"{'ok' if check['ok'] else 'NO':3} {check['name']}{detail}")
        sys.exit(0 if found["ok"] else 1)
    operation = api.change("POST", "/v1/drills", body=wanted, headers=new_key())
    if not no_wait:
        operation = follow(api, operation, quiet=as_json)
    if as_json:
        ended = operation["ended_ns"] is not None
        whole = api.get(f"/v1/drills/{operation['id']}") if ended else {"operation": operation}
        click.echo(json.dumps(whole))
    elif operation["state"] == "succeeded":
        click.echo(_summary(operation["figures"]))
        click.echo(f"see: tandem drill show {operation['id']}")
    elif no_wait:
        click.echo(f"drill {operation['id']} is {operation['state']}")
    else:
        click.echo(f"{operation['state']}: {operation['problem']}", err=True)
    if not no_wait:
        missed = operation["state"] == "succeeded" and not operation["figures"].get("passed")
        sys.exit(1 if missed else status_of(operation))


def _summary(figures: dict[str, Any]) -> str:
    lines = []
    for name, words in _FIGURES:
        value = figures.get(name)
        lines.append(f"{words:36} {'not measured' if value is None else f'{value:,}'}")
    return "\n".join([*lines, "passed" if figures.get("passed") else "FAILED"])


@drill.command("list")
@click.option("--limit", default=20, show_default=True, help="The newest.")
@_json_option
@api_options
def list_(limit: int, as_json: bool, url: str, token_file: Path | None, ca: Path | None) -> None:
    """The drills of the cluster, the newest first."""
    found = Client(url, token_file, ca).get("/v1/drills", limit=str(limit))
    if as_json:
        click.echo(json.dumps(found))
        return
    for one in found:
        figures = one["figures"]
        passed = figures.get("passed")
        result = one["state"] if passed is None else "passed" if passed else "MISSED"
        lost = "" if figures.get("lost") is None else f"{figures['lost']} lost"
        kind, source = one["request"]["kind"], figures.get("from", "")
        click.echo(f"{one['id']}  {kind:16} {source:10} {result:10} {lost}")


@drill.command()
@click.argument("id_", metavar="ID")
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "junit", "html", "json"]),
    default="markdown",
    show_default=True,
    help="HTML is one page with a plot, JUnit is for build servers.",
)
@api_options
def show(id_: str, form: str, url: str, token_file: Path | None, ca: Path | None) -> None:
    """The report of a drill.

    \b
    Examples:
      tandem drill show 18bd2c7a5f3e1a00-5d41
      tandem drill show 18bd2c7a5f3e1a00-5d41 --format html > drill.html
    """
    api = Client(url, token_file, ca)
    if form == "json":
        click.echo(json.dumps(api.get(f"/v1/drills/{id_}")))
    else:
        click.echo(api.text(f"/v1/drills/{id_}/report", format=form), nl=False)


@drill.command()
@click.argument("one")
@click.argument("other")
@_json_option
@api_options
def diff(
    one: str, other: str, as_json: bool, url: str, token_file: Path | None, ca: Path | None
) -> None:
    """The figures of two drills side by side, by their ids."""
    found = Client(url, token_file, ca).get(f"/v1/drills/{one}/diff/{other}")
    if as_json:
        click.echo(json.dumps(found))
        return
    for row in found:
        shown = ["–" if row[side] is None else str(row[side]) for side in ("one", "other")]
        change = "" if row["change"] in (None, 0) else f"{row['change']:+g}"
        click.echo(f"{row['name'].replace('_', ' '):20} {shown[0]:>14} {shown[1]:>14} {change:>10}")
