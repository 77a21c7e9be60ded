"""``python -m lab``: what playbooks, Molecule and people call."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import click

from lab import cluster, exporters, image, machine, network
from lab.machine import Machine, progress
from lab.shell import LabError, need, run

PROGRAMS = ("mmdebstrap", "systemd-nspawn", "nsenter", "ip", "bridge", "iperf3")
PACKAGES = "mmdebstrap systemd-container util-linux iproute2 iperf3 softflowd pmacct"


_suite = click.option(
    "--suite",
    type=click.Choice(image.SUITES),
    default=image.SUITES[0],
    show_default=True,
    help="The Debian that nodes run.",
)


@click.group()
def main() -> None:
    """Nodes, their network and what goes wrong with them, on this machine (as root).

    \b
    Examples:
      python -m lab up n1=10.77.0.11 n2=10.77.0.12
      python -m lab exec n1 -- systemctl status tandem-collector
      python -m lab partition n1; sleep 5; python -m lab heal n1
      python -m lab down
    """
    if os.geteuid() != 0:
        raise LabError("nodes are made by root: run it as root")
    need(PROGRAMS, PACKAGES)


@main.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NAME=ADDRESS...")
@_suite
def up(nodes: tuple[str, ...], suite: str) -> None:
    """Make the network and the nodes that are missing, and boot those that do not run.

    Prints {"changed": …} as JSON. What fails takes the nodes of this call with it.
    """
    wanted = [(Machine(name), address) for name, _, address in (n.partition("=") for n in nodes)]
    changed = network.up()
    missing = [(one, address) for one, address in wanted if not one.folder.exists()]
    try:
        if missing:
            base = image.ready(suite)
            for one, address in missing:
                one.create(base, address)
        down = [one for one, _ in wanted if one.leader is None]
        if down:
            progress(f"{', '.join(one.name for one in down)} boot")
            changed = True
            with ThreadPoolExecutor() as pool:
                list(pool.map(Machine.start, down))
    except BaseException:
        for one, _ in missing:
            one.destroy()
        raise
    click.echo(json.dumps({"changed": changed or bool(missing)}))


@main.command("cluster")
@click.option("--nodes", type=click.Choice(["2", "3"]), default="2", show_default=True)
@_suite
@click.option(
    "--profile", type=click.Choice(["default", "fast"]), default="default", show_default=True
)
def whole(nodes: str, suite: str, profile: str) -> None:
    """Nodes, what site.yml makes of them, and real exporters: a cluster to try."""
    cluster.make(int(nodes), suite, profile)


@main.command()
def down() -> None:
    """Remove nodes, network and exporters; the cached image stays. Prints {"changed": …}."""
    found = machine.existing()
    exporters.stop()
    for one in found:
        one.destroy()
    changed = bool(found or network.namespaces())
    network.down()
    shutil.rmtree(machine.STATE, ignore_errors=True)
    click.echo(json.dumps({"changed": changed}))


@main.command()
def forget() -> None:
    """Remove the cached images, too."""
    image.remove(image.CACHE)


def _on_node(name: str, help_: str, act: Callable[[Machine], None]) -> None:
    """A command with a node's name as its argument."""

    def command(node: str) -> None:
        act(Machine(node))

    command.__doc__ = help_
    main.command(name)(click.argument("node")(command))


_on_node("start", "Boot a node, with the disk that it has.", Machine.start)
_on_node("stop", "Shut a node down cleanly.", Machine.stop)
_on_node("kill", "Take a node's power away: SIGKILL to its first process.", Machine.kill)
_on_node("destroy", "Kill a node and remove its disk.", Machine.destroy)
_on_node(
    "partition",
    "Let nothing through a node's port of the switch, while its link stays up.",
    lambda one: network.block(one.port, True),
)
_on_node("heal", "End the partition.", lambda one: network.block(one.port, False))
_on_node(
    "unplug", "Pull a node's cable at the switch.", lambda one: network.carrier(one.port, False)
)
_on_node("plug", "Plug it in again.", lambda one: network.carrier(one.port, True))


@main.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(node: str, command: tuple[str, ...]) -> None:
    """Run a command in a node as its root, with this terminal."""
    leader = Machine(node).leader
    if leader is None:
        raise LabError(f"{node} does not run: python -m lab start {node}")
    os.execvp("nsenter", ["nsenter", "-a", "-t", str(leader), *command])


@main.command()
@click.argument("action", type=click.Choice(["start", "stop"]))
def traffic(action: str) -> None:
    """Traffic between the exporter and the client host, and real exporters that report it."""
    exporters.stop()
    if action == "start":
        exporters.start()


@main.command()
def status() -> None:
    """Nodes, and whether they run."""
    for one in machine.existing():
        leader = one.leader
        ports = run("bridge", "-n", network.SWITCH, "link", "show", "dev", one.port, check=False)
        state = "blocked" if "state disabled" in ports else "connected" if ports else "no link"
        click.echo(f"{one.name}\t{f'runs, pid {leader}' if leader else 'down'}\t{state}")


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.stderr.write(f"lab: {error}\n")
        sys.exit(1)
