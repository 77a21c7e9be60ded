"""``tandem decode``: print the flow records of captures as JSON."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from appliance.decode.elements import RegistryError
from appliance.offline.decode import decode_files
from appliance.offline.pcap import CaptureError


@click.command()
@click.argument(
    "files", metavar="FILE.pcap…", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--options", is_flag=True, help='Also options data ("type": "options").')
@click.option("--counters", is_flag=True, help='Also sFlow counters ("type": "counters").')
@click.option("--errors", is_flag=True, help='Also what could not be decoded ("type": "error").')
@click.option(
    "--together",
    is_flag=True,
    help="Templates and sampling of one file hold for the next; else each file stands alone.",
)
@click.option(
    "--port",
    "ports",
    metavar="PORT",
    type=click.IntRange(1, 65535),
    multiple=True,
    help="Only datagrams that went to this port; may be repeated. Else every UDP datagram, and "
    "TCP to port 4739.",
)
@click.option(
    "--elements",
    metavar="FILE.csv",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Further information elements; may be repeated.",
)
def decode(
    files: tuple[Path, ...],
    options: bool,
    counters: bool,
    errors: bool,
    together: bool,
    ports: tuple[int, ...],
    elements: tuple[Path, ...],
) -> None:
    """Print one JSON object for each flow record of the captures (pcap or pcapng, also gzipped).

    Counters are as sent: they are not multiplied by a sampling rate. Addresses of tunnels' inner
    packets have keys that begin with inner_.
    """
    problems: list[str] = []
    status = 0
    try:
        for lines in decode_files(
            files,
            options=options,
            counters=counters,
            errors=errors,
            together=together,
            ports=frozenset(ports),
            elements=elements,
            problems=problems,
        ):
            if lines:
                sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except (CaptureError, RegistryError) as error:
        problems.append(str(error))
        status = 1
    except BrokenPipeError:
        # the reader has seen enough, as `head` does; Python must not complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for problem in problems:
        click.echo(f"tandem decode: {problem}", err=True)
    sys.exit(status)
