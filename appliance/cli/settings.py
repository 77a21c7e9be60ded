"""``tandem config get|set|edit|diff|history|rollback|drift``: settings through the API."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from appliance.cli.client import Client, api_options
from appliance.cli.follow import follow, new_key, status_of
from appliance.cli.options import Failure, Misuse

F = TypeVar("F", bound=Callable[..., Any])
_PATH = "/v1/config"


def _change_options(command: F) -> F:
    """What all commands have that change settings."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Only show what would change."),
        click.option("--no-wait", is_flag=True, help="Do not wait until all nodes use it."),
        click.option("--json", "as_json", is_flag=True, help="One JSON document."),
    ):
        command = option(command)
    return api_options(command)


@click.command()
@click.argument("key", required=False)
@click.option("--all", "every", is_flag=True, help="Also what is by default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@api_options
def get(key: str | None, every: bool, as_json: bool, **api: Any) -> None:
    """What holds on the node that is asked, and where it is from.

    \b
    Examples:
      tandem config get
      tandem config get store.retention_days
      tandem config get --all --json | jq .keys
    """
    found = Client(**api).get(_PATH)
    keys = found["keys"]
    if key is not None:
        if key not in keys:
            raise Failure(f"there is no key {key!r}; see `tandem config get --all`")
        click.echo(json.dumps(keys[key]["value"]))
        return
    if as_json:
        click.echo(json.dumps(found))
        return
    shown = {k: v for k, v in keys.items() if every or v["source"] != "default"}
    width = max(map(len, shown), default=0)
    click.echo(f"version {found['version']} of the settings")
    for name, one in shown.items():
        click.echo(f"  {name:<{width}}  {one['source']:<8}  {json.dumps(one['value'])}")
    for name, node in found["nodes"].items():
        if node["version"] != found["version"]:
            click.echo(f"! {name} uses version {node['version']}: {node['problem'] or 'not yet'}")
        for pending in node["pending_restart"]:
            click.echo(f"! {name}: {pending} waits for a restart of the collector")
    _show_drift(found["drift"])


@click.command(name="set")
@click.argument("pairs", metavar="KEY=VALUE...", nargs=-1)
@click.option("--unset", metavar="KEY", multiple=True, help="Let the file's value hold again.")
@_change_options
def set_(
    pairs: tuple[str, ...],
    unset: tuple[str, ...],
    dry_run: bool,
    no_wait: bool,
    as_json: bool,
    **api: Any,
) -> None:
    """Set keys on all nodes, those without a VIP first. Nothing is lost by it.

    VALUE is JSON, or a text. If a node cannot use it, all of them go back.

    \b
    Examples:
      tandem config set store.retention_days=60
      tandem config set 'allow=["192.0.2.0/24"]' --dry-run
      tandem config set --unset store.retention_days
    """
    patch: dict[str, Any] = {}
    for pair in pairs:
        key, given, value = pair.partition("=")
        if not given:
            raise Misuse(f"{pair!r} has no value; write {pair}=VALUE, or --unset {pair}")
        _put(patch, key, _value(value))
    for key in unset:
        _put(patch, key, None)
    if not patch:
        raise Misuse("nothing to set; name a KEY=VALUE, or --unset KEY")
    _change(Client(**api), "PATCH", _PATH, patch, dry_run, no_wait, as_json)


@click.command()
@_change_options
def edit(dry_run: bool, no_wait: bool, as_json: bool, **api: Any) -> None:
    """Change the settings in an editor ($EDITOR), as JSON in the shape of the file.

    Shows what would change, and asks, before it is applied.

    \b
    Examples:
      tandem config edit
    """
    client = Client(**api)
    found = client.get(_PATH)
    text = click.edit(json.dumps(found["values"], indent=2) + "\n", extension=".json")
    if text is None:
        click.echo("nothing was changed")
        return
    try:
        values = json.loads(text)
    except ValueError as error:
        raise Failure(f"that is no JSON: {error}; nothing was changed") from None
    match = {"If-Match": f'"{found["version"]}"'}
    preview = client.change("PUT", _PATH, {"dry_run": "true"}, body=values, headers=match)
    _show_changes(preview)
    if dry_run or not preview["changes"]:
        return
    click.confirm("Apply it on all nodes?", abort=True, err=True)
    operation = client.change("PUT", _PATH, body=values, headers=match | new_key())
    _follow(client, operation, no_wait, as_json)


@click.command()
@click.argument("version", type=int)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@api_options
def diff(version: int, as_json: bool, **api: Any) -> None:
    """What going back to VERSION of the settings would change.

    \b
    Examples:
      tandem config diff 5
    """
    _change(Client(**api), "POST", f"{_PATH}/rollback", {"version": version}, True, False, as_json)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@api_options
def history(as_json: bool, **api: Any) -> None:
    """Who has set what, and when; the newest first.

    \b
    Examples:
      tandem config history
    """
    from appliance.cli.text import moment

    found = Client(**api).get(f"{_PATH}/history")
    if as_json:
        click.echo(json.dumps(found))
        return
    for one in found:
        click.echo(
            f"{one['version']:>5}  {moment(one['time_ns'])} UTC  {one['by']}  {one['reason']}"
        )
        for change in one["changes"]:
            click.echo(f"       {_line(change)}")
    if not found:
        click.echo("nothing was ever set")


@click.command()
@click.argument("version", type=int)
@_change_options
def rollback(version: int, dry_run: bool, no_wait: bool, as_json: bool, **api: Any) -> None:
    """Set again what VERSION of the settings had; it becomes a new version. 0: the file alone.

    \b
    Examples:
      tandem config rollback 5
      tandem config rollback 0 --dry-run
    """
    body = {"version": version}
    _change(Client(**api), "POST", f"{_PATH}/rollback", body, dry_run, no_wait, as_json)


@click.command()
@click.option("--adopt", metavar="KEY", multiple=True, help="The setting stays.")
@click.option("--reset", metavar="KEY", multiple=True, help="The file's value holds.")
@_change_options
def drift(
    adopt: tuple[str, ...],
    reset: tuple[str, ...],
    dry_run: bool,
    no_wait: bool,
    as_json: bool,
    **api: Any,
) -> None:
    """Settings that keep a later change of the inventory from having an effect, and what to do.

    \b
    Examples:
      tandem config drift
      tandem config drift --reset store.retention_days
    """
    client = Client(**api)
    if adopt and reset:
        raise Misuse("--adopt or --reset, one at a time")
    if adopt or reset:
        decision = {"action": "adopt" if adopt else "reset", "keys": list(adopt or reset)}
        _change(client, "POST", f"{_PATH}/drift", decision, dry_run, no_wait, as_json)
        return
    found = client.get(_PATH)["drift"]
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show_drift(found)
        if not found:
            click.echo("no drift")


def _change(
    client: Client,
    method: str,
    path: str,
    body: Any,
    dry_run: bool,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Make a change to what holds now."""
    match = {"If-Match": f'"{client.get(_PATH)["version"]}"'}
    if dry_run:
        preview = client.change(method, path, {"dry_run": "true"}, body=body, headers=match)
        if as_json:
            click.echo(json.dumps(preview))
        else:
            _show_changes(preview)
        return
    operation = client.change(method, path, body=body, headers=match | new_key())
    _follow(client, operation, no_wait, as_json)


def _follow(client: Client, operation: dict[str, Any], no_wait: bool, as_json: bool) -> None:
    if not no_wait:
        operation = follow(client, operation, quiet=as_json)
    if as_json:
        click.echo(json.dumps(operation))
    elif no_wait:
        click.echo(f"operation {operation['id']} is {operation['state']}")
    elif operation["state"] != "succeeded":
        click.echo(f"{operation['state']}: {operation['problem']}", err=True)
    if not no_wait:
        sys.exit(status_of(operation))


def _show_changes(preview: dict[str, Any]) -> None:
    for change in preview["changes"]:
        click.echo(_line(change))
    if not preview["changes"]:
        click.echo("nothing would change")


def _line(change: dict[str, Any]) -> str:
    effect = "" if change["effect"] == "live" else "  (needs a restart)"
    return f"{change['key']}: {_short(change['before'])} → {_short(change['after'])}{effect}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _show_drift(found: list[dict[str, Any]]) -> None:
    for one in found:
        click.echo(
            f"! {one['key']} is set to {_short(one['setting'])}; the file said "
            f"{_short(one['was'])} then, and says {_short(one['now'])} now: "
            "`tandem config drift --adopt` or `--reset` it"
        )


def _put(patch: dict[str, Any], key: str, value: Any) -> None:
    *tables, name = key.split(".")
    for table in tables:
        patch = patch.setdefault(table, {})
        if not isinstance(patch, dict):
            raise Misuse(f"{key} is within what is set as a whole")
    patch[name] = value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
