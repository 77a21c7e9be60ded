"""``tandem run``."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.cli.options import Failure, data_option, load_config

if TYPE_CHECKING:
    from appliance.cli.processes import Children
    from appliance.config import Config

START_SECONDS = 10.0
"""How long nothing is said while the collector begins."""
STOP_SECONDS = 40.0
"""More than the collector gives its workers to store what they have."""


@click.command()
@data_option
@click.option("--no-api", is_flag=True, help="Without the HTTP API.")
def run(data_dir: Path | None, config_file: Path | None, no_api: bool) -> None:
    """Collector, API and a live view on this machine, as an ordinary user; Ctrl-C ends all.

    Where stdout is no terminal, it writes a line every ten seconds instead of the view.

    \b
    Examples:
      tandem run
      tandem run --data-dir ./var --no-api
      tandem run --config tandem.toml | tee collector.log
    """
    from appliance.cli.processes import Children

    config = load_config(config_file)
    if data_dir is not None:
        config = config.model_copy(update={"data_dir": data_dir.absolute()})
    _claim(config.data_dir)
    children = Children(capture=sys.stdout.isatty())
    signal.signal(signal.SIGTERM, _interrupt)
    status = 0
    try:
        _start(children, config, config_file if data_dir is None else None, no_api)
        _watch(children, config, no_api)
    except KeyboardInterrupt:
        click.echo("\nstoring what has arrived …")
    else:
        status = 1
    finally:
        # a second Ctrl-C must not keep the collector from storing what it has
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        children.stop(STOP_SECONDS)
        for message in children.messages():
            click.echo(message)
    if status:
        ended = ", ".join(f"the {name} ended ({_how(s)})" for name, s in children.ended().items())
        raise Failure(f"{ended}: see the messages above")
    click.echo(f"stopped; `tandem top --data-dir {config.data_dir}` still answers")


def _claim(data_dir: Path) -> None:
    """Make the directory; Failure where this user cannot use it, or another collector does."""
    from appliance.children import only_one
    from appliance.receive.sockets import ListenError

    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(
            f"{data_dir} cannot be made: {error.strerror}; choose another --data-dir"
        ) from None
    try:
        with only_one(data_dir):
            pass  # the collector takes it itself; to know now is to say what is wrong first
    except ListenError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(
            f"{data_dir} may not be written by this user: {error.strerror}; "
            "choose another --data-dir"
        ) from None


def _how(status: int) -> str:
    """An exit status; negative: the signal that ended the process."""
    return str(status) if status >= 0 else signal.Signals(-status).name


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _start(children: Children, config: Config, path: Path | None, no_api: bool) -> None:
    """Fork collector and API, before this process has threads."""

    def collector() -> int:
        import logging

        from appliance.receive.sockets import ListenError
        from appliance.supervisor import main

        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
        try:
            return main(config, path)
        except ListenError as error:
            sys.stderr.write(f"tandem: {error}\n")
            return 1
        except OSError as error:
            sys.stderr.write(f"the collector cannot run with {config.data_dir}: {error}\n")
            return 1

    if no_api:
        children.start("collector", collector)
        return
    from api.server import CannotListen, bind, serve

    try:
        sock = bind(config)
    except CannotListen as error:
        raise Failure(f"{error}, or run without it: --no-api") from None

    def api() -> int:
        serve(config, sock)
        return 0

    def collector_alone() -> int:
        sock.close()
        return collector()

    children.start("collector", collector_alone)
    children.start("API", api)
    sock.close()


def _watch(children: Children, config: Config, no_api: bool) -> None:
    from appliance.cli import live
    from appliance.cli.figures import Figures
    from appliance.state import StateReader

    where = ", ".join(
        f"{one.transport.upper()} {one.port}"
        for one in sorted(config.listener, key=lambda one: (one.transport, one.port))
    )
    head = [f"Tandem collects on {where}; data in {config.data_dir}"]
    if not no_api:
        host = f"[{config.api.address}]" if config.api.address.version == 6 else config.api.address
        head.append(f"API: http://{host}:{config.api.port}/openapi.json   Ctrl-C ends.")
    figures = Figures(config.data_dir, StateReader(config.data_dir, config.elements.files))
    deadline = time.monotonic() + START_SECONDS
    while figures.look().problem and not children.ended() and time.monotonic() < deadline:
        time.sleep(0.1)
    if children.ended():  # it collects nowhere: do not say that it does
        return
    live.watch(config.data_dir, figures, head, lambda: not children.ended(), children.messages)
