"""``tandem templates``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from appliance.cli.options import data_directory, data_option, exporter_option, state_of


@click.command()
@exporter_option
@click.option("--fields", is_flag=True, help="Also the fields of each.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@data_option
def templates(
    exporter: str | None,
    fields: bool,
    as_json: bool,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """The templates that exporters have sent, as of the last change of any.

    \b
    Examples:
      tandem templates
      tandem templates --exporter 192.0.2.1 --fields
      tandem templates --json | jq -c '[.exporter, .id, .uses]'
    """
    from appliance.cli.render import grid, remark

    with state_of(data_directory(data_dir, config_file), config_file) as state:
        found, _ = state.templates(exporter)
    if as_json:
        for template in found:
            click.echo(json.dumps(template))
        return
    if not found:
        remark("no templates: NetFlow v1, v5, v7 and sFlow need none, others have sent none yet")
        return
    titles = ["exporter", "protocol", "domain", "id", "kind", "fields", "defined", "last used"]
    now = time.time_ns()
    grid(titles, (_cells(t, fields, now) for t in found), right={"domain", "id"})


def _cells(template: dict[str, Any], fields: bool, now: int) -> list[str]:
    from appliance.cli.text import ago, protocol_text

    def since(ns: int) -> str:
        return f"{ago(ns, now)} ago" if ns else "never"

    named = [
        f"{f['name'] or '{}.{}'.format(f['pen'], f['id'])}[{_length(f['length'])}]"
        for f in template["fields"]
    ]
    return [
        template["exporter"],
        protocol_text(template["protocol"]),
        str(template["domain"]),
        str(template["id"]),
        "options" if template["options"] else "data",
        " ".join(named) if fields else str(len(named)),
        since(template["defined_ns"]),
        since(template["used_ns"]),
    ]


def _length(length: int) -> str:
    return "v" if length == 65535 else str(length)
