"""Options that several subcommands share, and what they mean."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from appliance.config import Config
    from appliance.query.engine import Engine, Window
    from appliance.state import StateReader

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """Something that the user can do something about: shown without a traceback, exit status 1."""

    def show(self, file: Any = None) -> None:
        """On stderr, after the command's name."""
        click.echo(f"tandem: {self.format_message()}", err=True)


class Misuse(Failure):
    """What was asked for makes no sense: exit status 2."""

    exit_code = 2


def _all(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


config_option = click.option(
    "--config",
    "config_file",
    envvar="TANDEM_CONFIG",
    type=click.Path(path_type=Path),
    help="The node's configuration file (or TANDEM_CONFIG).",
)

data_option = _all(
    click.option(
        "--data-dir",
        envvar="TANDEM_DATA_DIR",
        type=click.Path(path_type=Path, file_okay=False),
        help="The node's data (or TANDEM_DATA_DIR); else what the configuration says.",
    ),
    config_option,
)


def time_options(last: str) -> Callable[[F], F]:
    """``--last``, ``--since``, ``--until``; without any of them, the last ``last``."""
    return _all(
        click.option("--last", metavar="SPAN", help=f"Such as 15m, 2h, 7d or all.  [{last}]"),
        click.option("--since", metavar="TIME", help="ISO time (UTC), or how long ago: 2h."),
        click.option("--until", metavar="TIME", help="As --since; not included.  [now]"),
    )


def _shape(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Say what the command's ``shape`` is: ``json``, ``csv``, or None for a table."""
    chosen = ctx.params.setdefault("shape", None)
    if value and chosen:
        raise click.UsageError("--json and --csv exclude each other", ctx)
    if value:
        ctx.params["shape"] = parameter.name


format_options = _all(
    click.option(
        "--json", is_flag=True, expose_value=False, callback=_shape, help="One JSON object a line."
    ),
    click.option(
        "--csv", is_flag=True, expose_value=False, callback=_shape, help="CSV with a header."
    ),
)


def _address(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The text of an address as results have it."""
    if value is None:
        return None
    from ipaddress import ip_address

    try:
        found = ip_address(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not an IP address", ctx, parameter) from None
    mapped = found.ipv4_mapped if found.version == 6 else None
    return str(mapped or found)


exporter_option = click.option(
    "--exporter", metavar="ADDRESS", callback=_address, help="Only this exporter."
)

sampling_option = click.option(
    "--as-sent", is_flag=True, help="Do not multiply counters by sampling rates."
)

filter_argument = click.argument("filter_words", metavar="[FILTER]...", nargs=-1)


NODE_CONFIG = Path("/etc/tandem/tandem.toml")
"""What the playbooks configure a node by."""


def load_config(config_file: Path | None) -> Config:
    """The configuration in ``config_file``, or the defaults."""
    from appliance.config import ConfigInvalid, default, load

    try:
        return load(config_file) if config_file else default()
    except ConfigInvalid as invalid:
        raise Failure("the configuration cannot be used:\n  " + str(invalid)) from None


def data_directory(data_dir: Path | None, config_file: Path | None) -> Path:
    """Where the node's data is; Failure where there is none."""
    found = data_dir or load_config(config_file or of_node()).data_dir
    if not found.is_dir():
        raise Failure(
            f"there is no data at {found}: start a collector with `tandem run`, "
            "or say where its data is with --data-dir or --config"
        )
    if not os.access(found, os.R_OK | os.X_OK):
        raise Failure(
            f"the data at {found} may not be read by this user: run the command as the "
            "collector's user, or as root"
        )
    return found


def of_node() -> Path | None:
    """On a node: its own configuration is what is meant when none is named."""
    return NODE_CONFIG if os.access(NODE_CONFIG, os.R_OK) else None


def window_of(last: str | None, since: str | None, until: str | None, otherwise: str) -> Window:
    """The window of the time options; ``otherwise``: its length where nothing says it."""
    from appliance.query.engine import QueryError
    from appliance.query.times import window

    try:
        if not (last or since):
            last = otherwise
        return window(time.time_ns(), last=last, since=since, until=until)
    except QueryError as error:
        raise Misuse(str(error)) from None


@contextmanager
def asking(data_dir: Path | None, config_file: Path | None) -> Iterator[Engine]:
    """An engine on the node's data; errors of queries become those of the command line."""
    from appliance.query.engine import Engine, QueryError
    from appliance.query.filter import FilterError

    with Engine(data_directory(data_dir, config_file)) as engine:
        try:
            yield engine
        except FilterError as error:
            raise Misuse(f"the filter is wrong: {error}") from None
        except QueryError as error:
            raise Failure(str(error)) from None


@contextmanager
def state_of(data_dir: Path, config_file: Path | None) -> Iterator[StateReader]:
    """A reader of the node's ledger and templates; its errors become those of the command line."""
    from appliance.state import StateError, StateReader

    try:
        yield StateReader(data_dir, load_config(config_file or of_node()).elements.files)
    except StateError as error:
        raise Failure(f"the state of the node cannot be read: {error}") from None
