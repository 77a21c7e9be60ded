"""``tandem audit``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from appliance.cli.client import Client, api_options


@click.command()
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=50, show_default=True,
              help="Requests to show.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@api_options
def audit(limit: int, as_json: bool, url: str, token_file: Path | None, ca: Path | None) -> None:
    """Who changed what, on all nodes, newest first; and whose token was not good.

    The exit status is 1 if a node's log is not whole, or a node did not answer.

    \b
    Examples:
      tandem audit
      tandem audit --json | jq '.records[] | select(.caller == "ci")'
    """
    from appliance.cli.render import grid
    from appliance.cli.text import moment

    found = Client(url, token_file, ca).get("/v1/audit", limit=str(limit))
    if as_json:
        click.echo(json.dumps(found))
    else:
        grid(
            ["time (UTC)", "node", "caller", "role", "client", "request", "status"],
            (
                [moment(one["time_ns"]), one["node"], one["caller"] or "-", one["role"] or "-",
                 one["client"], _request(one), str(one["status"])]
                for one in found["records"]
            ),
        )  # fmt: skip
    wrong = [state for state in found["nodes"] if not state["whole"]]
    for state in wrong:
        click.echo(f"! the audit log of {state['node']} is {_state(state)}", err=True)
    sys.exit(1 if wrong else 0)


def _request(one: dict[str, Any]) -> str:
    more = " ".join(f"{name}={value}" for name, value in one["more"].items())
    left = f"({one['unwritten']} before it are not written)" if one["unwritten"] else ""
    return " ".join(filter(None, (one["method"], one["path"], more, left)))


def _state(state: dict[str, Any]) -> str:
    return f"{'not known' if state['whole'] is None else 'not whole'}: {state['problem']}"
