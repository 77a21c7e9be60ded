"""``tandem drain``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from appliance.cli.client import Client, NotReachable, api_options
from appliance.cli.options import Failure

_PERIOD = 0.2


@click.command()
@click.argument("node")
@click.option("--vip", metavar="VIP", help="Only this VIP.")
@click.option("--undo", is_flag=True, help="Let the node hold VIPs again.")
@click.option("--force", is_flag=True, help="Even if no other node could take over.")
@click.option("--no-wait", is_flag=True, help="Do not wait until the VIPs have moved.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds to wait at most.")
@api_options
def drain(
    node: str,
    vip: str | None,
    undo: bool,
    force: bool,
    no_wait: bool,
    timeout: float,
    url: str,
    token_file: Path | None,
    ca: Path | None,
) -> None:
    """Move the VIPs of NODE to another node, and wait until that holds them; nothing is lost.

    The node stays drained, also over restarts, until --undo; then it may take over again, but no
    VIP moves back by itself. Refused if no other node could take over. The exit status is 1 if the
    VIPs have not moved in time: the drain stays.

    \b
    Examples:
      tandem drain n1
      tandem drain n1 --vip v2 --timeout 30
      tandem drain n1 --undo
    """
    client = Client(url, token_file, ca)
    parameters = {"vip": vip} if vip else {}
    if force and not undo:
        parameters["force"] = "true"
    method = "DELETE" if undo else "PUT"
    answer = client.change(method, f"/v1/nodes/{node}/drain", parameters)
    if undo:
        left = f"; still drained: {', '.join(answer['vips'])}" if answer["vips"] else ""
        whole = " but is drained as a whole" if answer["drained"] else ""
        click.echo(f"{node} may hold {vip or 'VIPs'} again{whole}{left}")
        return
    moving = [vip] if vip else [one["vip"] for one in client.get("/v1/cluster")["vips"]]
    if no_wait:
        click.echo(f"{node} is drained{f' of {vip}' if vip else ''}; it may still hold VIPs")
        return
    _wait(client, node, moving, timeout)


def _wait(client: Client, node: str, vips: list[str], timeout: float) -> None:
    """Wait until other nodes hold ``vips``; Failure when they do not in time."""
    begun = time.monotonic()
    said: set[str] = set()
    while True:
        held = _holders(client)
        for vip in vips:
            if vip not in said and _moved(held.get(vip, []), node):
                said.add(vip)
                click.echo(f"{vip} is held by {', '.join(held[vip])}")
        left = [vip for vip in vips if not _moved(held.get(vip, []), node)]
        passed = time.monotonic() - begun
        if not left:
            _progress("")
            click.echo(f"{node} is drained")
            return
        if passed > timeout:
            _progress("")
            where = "; ".join(f"{v}: {' and '.join(held.get(v, [])) or 'nobody'}" for v in left)
            raise Failure(
                f"not moved within {timeout:g} s (held by {where}); {node} stays drained: see "
                f"`tandem status`, or take it back with `tandem drain {node} --undo`"
            )
        _progress(f"waiting for {', '.join(left)} to move … {passed:.0f} s")
        time.sleep(_PERIOD)


def _holders(client: Client) -> dict[str, list[str]]:
    """Who holds each VIP; nobody known while the node that is asked is itself busy moving."""
    try:
        found: dict[str, Any] = client.get("/v1/cluster")
    except NotReachable:
        return {}
    return {one["vip"]: one["holders"] for one in found["vips"]}


def _moved(holders: list[str], node: str) -> bool:
    return bool(holders) and node not in holders


def _progress(text: str) -> None:
    """A line that the next one replaces; only for people."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", nl=False, err=True)
