"""``make demo``: real flow data for a collector on this machine, for a minute."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from demo.exporters import EXPORTERS
from demo.network import CLIENTS, SERVERS, Network, NetworkError, edge, edge_address, host_address

REPORT_SECONDS = 10
STOP_SECONDS = 5
FOLDER = Path("/run/tandem-demo")
"""Files of the exporters, while they run."""


def say(text: str = "") -> None:
    """A line for whoever watches."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def listening() -> set[int]:
    """UDP ports that something on this machine listens on."""
    ports = set()
    for name in ("udp", "udp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            ports.add(int(line.split()[1].rpartition(":")[2], 16))
    return ports


class Processes:
    """Child processes, each in a session of its own: ended with all that they started."""

    def __init__(self) -> None:
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, namespace: str, command: list[str], log: Path) -> None:
        """Start ``command`` in ``namespace``; ``log`` gets what it says."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                # the child dies with this process, however this process dies
                ["setpriv", "--pdeathsig", "TERM", "ip", "netns", "exec", namespace, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append((command[0], process))

    def dead(self) -> list[str]:
        """Names of processes that have ended although nobody asked."""
        return [name for name, process in self._started if process.poll() is not None]

    def stop(self) -> None:
        """End all: first politely, so that exporters send what they still have."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for _, process in self._started:
                if process.poll() is None:
                    os.killpg(process.pid, number)
            deadline = time.monotonic() + STOP_SECONDS
            for _, process in self._started:
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue


def missing() -> str | None:
    """Why the demo cannot run here; None if it can."""
    if os.geteuid() != 0:
        return "the demo makes network namespaces and needs root: sudo make demo"
    programs = sorted({"ip", "setpriv", *(e.program for e in EXPORTERS)})
    absent = [program for program in programs if shutil.which(program) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (make system installs softflowd and pmacct)"
    silent = sorted({e.port for e in EXPORTERS} - listening())
    if silent:
        ports = ", ".join(str(port) for port in silent)
        return f"nothing listens on UDP {ports}: start a collector in another terminal: make run"
    return None


def run(seconds: float) -> None:
    """Make the network, let it export, show what it does, and remove it."""
    with ExitStack() as stack:
        network = stack.enter_context(Network(len(EXPORTERS)))
        # what a demo that was killed has left goes first
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, FOLDER, ignore_errors=True)
        processes = Processes()
        stack.callback(processes.stop)
        traffic = [sys.executable, "-m", "demo.traffic"]
        processes.start(SERVERS, [*traffic, "serve", str(len(EXPORTERS))], FOLDER / "servers.log")
        say(f"{len(EXPORTERS)} routers between clients and servers, each an exporter:")
        for number, exporter in enumerate(EXPORTERS, 1):
            own = FOLDER / str(number)
            own.mkdir()
            command = exporter.command("inside", host_address(number), own)
            processes.start(edge(number), command, own / "log")
            say(
                f"  {edge_address(number):<15} {exporter.program:<10} {exporter.protocol:<11}"
                f" to UDP {exporter.port}"
            )
        time.sleep(1.0)
        processes.start(CLIENTS, [*traffic, "load", str(len(EXPORTERS))], FOLDER / "clients.log")
        _watch(network, processes, seconds)
    say("Namespaces and exporters are gone again; the flows stay. Ask, as who runs the collector:")
    tandem = os.path.relpath(Path(sys.executable).with_name("tandem"))
    for words, what in (
        ("top", "who has most of the traffic"),
        ("top --by src_port", "and for which services"),
        ("flows 'dst port 443'", "single flow records"),
        ("exporters", "who exports, and how"),
        ("ledger", "received = stored + named losses"),
    ):
        say(f"  {tandem} {words:<24} {what}")


def _watch(network: Network, processes: Processes, seconds: float) -> None:
    begun = time.monotonic()
    before = network.traffic()
    say(f"Traffic for {seconds:.0f} s (Ctrl-C ends it sooner):")
    while (left := begun + seconds - time.monotonic()) > 0:
        time.sleep(min(left, REPORT_SECONDS))
        now = network.traffic()
        moved = sum(a[0] for a in now) - sum(b[0] for b in before)
        sent = [a[1] - b[1] for a, b in zip(now, before, strict=True)]
        say(
            f"  {time.monotonic() - begun:3.0f} s: {moved / 1e6:.1f} MB forwarded,"
            f" export packets of each: {', '.join(str(n) for n in sent)}"
        )
        if dead := processes.dead():
            raise NetworkError(f"ended by themselves: {', '.join(dead)}")


def main() -> int:
    """Parse the command line and run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default 60)")
    seconds = parser.parse_args().seconds
    if reason := missing():
        sys.stderr.write(f"demo: {reason}\n")
        return 1
    # both by way of every clean-up
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        run(seconds)
    except NetworkError as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    except KeyboardInterrupt:
        say("ended; namespaces and exporters are gone again")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
