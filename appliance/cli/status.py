"""``tandem status``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.cli.client import Client, NotReachable, api_options

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

PERIOD = 1.0
_TRANSITIONS = 5
_WIDE = 240
_STYLES = {"active": "bold green", "standby": "", "draining": "yellow", "fault": "bold red",
           "unknown": "yellow"}  # fmt: skip


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--watch", is_flag=True, help="Again each second, until Ctrl-C.")
@api_options
def status(as_json: bool, watch: bool, url: str, token_file: Path | None, ca: Path | None) -> None:
    """The cluster on one screen: nodes, VIPs, what is wrong, and the last transitions.

    Any node knows all the others. The exit status is 0 when all is well, 1 when something is wrong,
    2 when the API cannot be reached.

    \b
    Examples:
      tandem status
      tandem status --watch
      tandem status --url https://192.0.2.10:8443 --ca ca.pem --token-file token
      tandem status --json | jq -r '.problems[]'
    """
    client = Client(url, token_file, ca)
    if watch and sys.stdout.isatty() and not as_json:
        _live(client)
        return
    while True:
        found = ask(client)
        if as_json:
            click.echo(json.dumps(found))
        else:
            from rich.console import Console

            # in a file or a pipe, nothing is cut off
            width = None if sys.stdout.isatty() else _WIDE
            Console(highlight=False, width=width).print(picture(found))
        if not watch:
            sys.exit(1 if found["problems"] else 0)
        time.sleep(PERIOD)


def ask(client: Client) -> dict[str, Any]:
    """The cluster's document, with its last transitions."""
    found: dict[str, Any] = client.get("/v1/cluster")
    found["transitions"] = client.get("/v1/failover", limit=str(_TRANSITIONS))["history"]
    return found


def _live(client: Client) -> None:
    from rich.live import Live
    from rich.text import Text

    shown: RenderableType = Text()
    with Live(auto_refresh=False, screen=True) as live:
        while True:
            try:
                shown = picture(ask(client))
            except NotReachable as error:
                shown = Text(error.format_message(), style="bold red")
            live.update(shown, refresh=True)
            try:
                time.sleep(PERIOD)
            except KeyboardInterrupt:
                return


def picture(found: dict[str, Any]) -> RenderableType:
    """The document as a screen."""
    from rich.console import Group
    from rich.text import Text

    from appliance.cli.text import moment

    problems = found["problems"]
    name = f"Cluster {found['cluster']}" if found["cluster"] else "A node alone"
    state = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}" if problems else "all well"
    parts: list[RenderableType] = [
        Text.assemble(
            (name, "bold"), "   ",
            (state, "bold red" if problems else "bold green"),
            f"   as {found['node']} knows it, {moment(found['time_ns'])} UTC",
        ),
        Text(),
        _nodes(found),
    ]  # fmt: skip
    if found["pause"]:
        parts += [Text(), _pause(found["pause"])]
    if found["vips"]:
        parts += [Text(), _vips(found)]
    parts += [Text("")] if problems else []
    parts += [Text(f"! {problem}", style="bold red") for problem in problems]
    if found["transitions"]:
        parts += [Text(), _transitions(found["transitions"])]
    return Group(*parts)


def _pause(pause: dict[str, Any]) -> Text:
    from rich.text import Text

    from appliance.cli.text import moment

    until = f" until {moment(pause['until_ns'])} UTC" if pause["until_ns"] else ""
    why = f": {pause['reason']}" if pause["reason"] else ""
    return Text(f"paused by {pause['by']}{until}{why}", style="yellow")


def _nodes(found: dict[str, Any]) -> Table:
    vips = [vip["vip"] for vip in found["vips"]]
    table = _table("node", *vips, "health", "ledger", "disk", "load", "clock", "version")
    for node in found["nodes"]:
        table.add_row(
            node["name"],
            *(_role(node["roles"].get(vip, "unknown")) for vip in vips),
            _health(node, found["time_ns"]),
            {True: "ok", False: "[bold red]unbalanced[/]"}.get(node["balanced"], "-"),
            _disk(node["disk"]),
            "-" if node["load1"] is None else f"{node['load1']:.2f}",
            _clock(node["clock_offset_seconds"]),
            node["version"] or "-",
        )
    return table


def _vips(found: dict[str, Any]) -> Table:
    table = _table("VIP", "addresses", "held by")
    for vip in found["vips"]:
        count = len(vip["holders"])
        held = " and ".join(vip["holders"]) or "nobody"
        table.add_row(
            vip["vip"],
            ", ".join(vip["addresses"]),
            held if count == 1 else f"[bold red]{held}[/]",
        )
    return table


def _transitions(found: list[dict[str, Any]]) -> Table:
    from rich.text import Text

    from appliance.cli.text import moment

    table = _table("last transitions (UTC)", "VIP", "node", "", "cause")
    for one in found:
        cause = one["cause"] + (f" ({one['detail']})" if one["detail"] else "")
        change = f"{one['from']} → {one['to']}"
        table.add_row(moment(one["time_ns"], 3), one["vip"], one["node"], change, Text(cause))
    return table


def _table(*titles: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, no_wrap=title != "cause")
    return table


def _role(role: str) -> str:
    style = _STYLES.get(role, "")
    return f"[{style}]{role}[/]" if style else role


def _health(node: dict[str, Any], now_ns: int) -> str:
    from appliance.cli.text import ago

    if not node["reachable"]:
        return f"[bold red]silent {ago(node['since_ns'], now_ns)}[/]"
    if node["health"] not in (None, "ok"):
        return f"[bold red]{node['health'].replace('_', ' ')}[/]"
    return "ok" if node["ready"] else "[bold red]does not collect[/]"


def _disk(disk: dict[str, int] | None) -> str:
    if not disk or not disk["size_bytes"]:
        return "-"
    return f"{disk['free_bytes'] / disk['size_bytes']:.0%} free"


def _clock(offset: float | None) -> str:
    return "-" if offset is None else f"{offset * 1000:+.1f} ms"
