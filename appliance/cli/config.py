"""``tandem config``: is a configuration file right, and what is set over it?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.cli import settings

if TYPE_CHECKING:
    from appliance.config import Config


@click.group()
def config() -> None:
    """What a node is told by its configuration file, and what is set over it on all nodes."""


for command in (
    *(settings.get, settings.set_, settings.edit, settings.diff),
    *(settings.history, settings.rollback, settings.drift),
):
    config.add_command(command)


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Check FILE before it is used.

    Says what it means, or what is wrong, on which line, and what to do.

    \b
    Examples:
      tandem config check /etc/tandem/tandem.toml
    """
    from appliance.config import ConfigInvalid, read

    try:
        loaded = read(file)
    except ConfigInvalid as invalid:
        for error in invalid.errors:
            click.echo(str(error), err=True)
        count = len(invalid.errors)
        click.echo(f"{count} error{'s' if count > 1 else ''}", err=True)
        sys.exit(1)
    click.echo(f"{file}: OK")
    for name, value in summary(loaded.config):
        click.echo(f"  {name:<10} {value}")
    if loaded.settings.values:
        click.echo(f"  {'settings':<10} version {loaded.settings.version} lies over the file")
    if loaded.problem:
        click.echo(f"settings cannot be used, so the file alone holds: {loaded.problem}", err=True)


def summary(loaded: Config) -> list[tuple[str, str]]:
    """What the file amounts to, in a few named lines."""
    receive, store = loaded.receive, loaded.store
    size = f", at most {_size(store.max_bytes)}" if store.max_bytes is not None else ""
    listens = [f"{one.transport} {_socket(one.address, one.port)}" for one in loaded.listener]
    sampled = sum(e.sampling_rate is not None for e in loaded.exporter)
    return [
        ("node", f"{loaded.node.name}, data in {loaded.data_dir}"),
        ("listens", ", ".join(listens)),
        ("accepts", ", ".join(map(str, loaded.allow)) or "any exporter"),
        (
            "workers",
            f"{receive.min_workers} to {receive.max_workers}, {receive.shards} shards, "
            f"{_size(receive.receive_buffer)} of kernel buffer a socket",
        ),
        ("journal", f"at most {_size(loaded.journal.max_bytes)}"),
        ("keeps", f"{store.retention_days:g} days{size}, {_size(store.reserve_bytes)} left free"),
        ("exporters", f"{len(loaded.exporter)} described, {sampled} with a sampling rate"),
        ("api", f"http://{_socket(loaded.api.address, loaded.api.port)}"),
    ]


def _socket(address: object, port: int) -> str:
    text = str(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
