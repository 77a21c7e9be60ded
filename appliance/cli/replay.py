"""``tandem replay``: send a capture's datagrams to a collector as the exporters did."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from appliance.offline import replay as offline
from appliance.offline.pcap import CaptureError


@click.command()
@click.argument(
    "files", metavar="FILE.pcap…", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--to", "target", metavar="HOST:PORT", required=True, help="The collector.")
@click.option(
    "--rate",
    metavar="PPS",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Datagrams a second; without it, as fast as this host can.",
)
@click.option(
    "--loop",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Send everything N times.",
)
@click.option("--realtime", is_flag=True, help="Send at the times of the capture.")
@click.option("--tcp", is_flag=True, help="Send IPFIX messages over TCP, a connection an exporter.")
@click.option(
    "--port",
    "ports",
    metavar="PORT",
    type=click.IntRange(1, 65535),
    multiple=True,
    help="Only datagrams that went to this port; may be repeated.",
)
def replay(
    files: tuple[Path, ...],
    target: str,
    rate: float,
    loop: int,
    realtime: bool,
    tcp: bool,
    ports: tuple[int, ...],
) -> None:
    """Send the export datagrams of the captures, in their order, to HOST:PORT.

    Each exporter sends from its own address where this host has it; towards 127.x.x.x, each from
    a loopback address of its own (127.64.0.1 and up); else from the address that routing chooses.
    """
    if realtime and rate:
        raise click.UsageError("--realtime and --rate exclude each other")
    total = offline.Replayed()
    status = 0
    try:
        offline.replay(
            files,
            target,
            rate=rate,
            loop=loop,
            realtime=realtime,
            tcp=tcp,
            ports=frozenset(ports),
            total=total,
            progress=_progress,
        )
    except (offline.ReplayError, CaptureError) as error:
        click.echo(f"tandem replay: {error}", err=True)
        status = 1
    except KeyboardInterrupt:
        click.echo("ended by the user", err=True)
        status = 130
    if total.datagrams or total.skipped or not status:
        for line in summary(total):
            click.echo(line, err=True)
    sys.exit(status)


def _progress(total: offline.Replayed) -> None:
    click.echo(f"{total.datagrams} datagrams, {total.rate:.0f} a second", err=True)


def summary(total: offline.Replayed) -> list[str]:
    """What was sent, from where, and what was wrong, in a few lines."""
    lines = list(total.problems)
    moved = {e: s for e, s in total.sources.items() if e != s}
    lines += [f"exporter {e}: sent from {s}" for e, s in list(moved.items())[:20]]
    if len(moved) > 20:
        lines.append(f"… and {len(moved) - 20} more exporters, each from an address of its own")
    if total.refused:
        lines.append(
            f"{total.refused} times nothing listened at the target: is the collector running?"
        )
    if total.failed:
        lines.append(f"{total.failed} datagrams could not be sent: too large, or no route")
    if total.skipped:
        lines.append(f"{total.skipped} datagrams were no IPFIX messages and not sent over TCP")
    lines.append(
        f"{total.datagrams} datagrams, {total.octets} bytes in {total.seconds:.3f} s: "
        f"{total.rate:.0f} datagrams/s, {8 * total.octets / max(total.seconds, 1e-9) / 1e6:.1f} "
        f"Mbit/s, {len(total.sources)} exporters"
    )
    return lines
