"""``python -m measure iperf``: throughput by iperf3 in steps of 0.1 s, with an event meanwhile.

A connection to a VIP does not outlive the move of the VIP: the client is started again until the
time is over, and what its runs have measured is put together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from measure.namespace import path_of

STEP_SECONDS = 0.1
CONNECT_MS = 300
"""A client that cannot connect for so long is started again."""
ANSWER_MS = 1000
"""So long may sent data wait for the other side's acknowledgement."""
GRACE_SECONDS = 3
"""A client that has not ended by then is told to; it still says what it has measured."""
PAUSE_SECONDS = 0.05
"""Between two clients."""


@dataclass(frozen=True, slots=True)
class Event:
    """What was done meanwhile."""

    command: list[str]
    begin_ns: int
    end_ns: int
    status: int


@dataclass(slots=True)
class Throughput:
    """What was measured. ``steps``: from and to in ns since 1970, and bytes."""

    target: str
    transport: str
    begin_ns: int
    end_ns: int = 0
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    measured_by: str = "client"
    """Whose bytes: UDP as the server received it, if it could say so to the end."""
    lost_percent: float | None = None
    """UDP; of the last run."""
    retransmits: int | None = None
    """TCP; of all runs."""
    clients: int = 0
    errors: list[str] = field(default_factory=list)
    """Why clients ended early."""
    event: Event | None = None

    def add(self, document: dict[str, Any], begin_ns: int) -> None:
        """Add what one client says."""
        self.clients += 1
        if error := document.get("error"):
            self.errors.append(str(error))
        server = document.get("server_output_json", {}).get("intervals")
        if server and self.transport == "udp":
            self.measured_by = "server"
        for interval in (server if self.transport == "udp" else None) or document["intervals"]:
            total = interval["sum"]
            if total["seconds"] > STEP_SECONDS / 10:
                first, last = (begin_ns + int(total[k] * 1e9) for k in ("start", "end"))
                self.steps.append((first, last, int(total["bytes"])))
            if "retransmits" in total:
                self.retransmits = (self.retransmits or 0) + int(total["retransmits"])
        end = document.get("end", {}).get("sum", {})
        if "lost_percent" in end:
            self.lost_percent = float(end["lost_percent"])


def _client(command: list[str], seconds: float) -> dict[str, Any]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        try:
            output, _ = client.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            client.terminate()
            try:
                output, _ = client.communicate(timeout=GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                client.kill()
                output, _ = client.communicate()
    try:
        document: dict[str, Any] = json.loads(output)
    except ValueError:
        document = {"error": "the client was ended"}
    return {"intervals": []} | document


def measure(
    address: str,
    port: int,
    seconds: float,
    *,
    netns: str | None = None,
    udp_rate: str | None = None,
    at_seconds: float | None = None,
    command: list[str] | None = None,
) -> Throughput:
    """Measure TCP, or UDP at ``udp_rate`` (as iperf3's ``-b``); run ``command`` meanwhile."""
    result = Throughput(address, "udp" if udp_rate else "tcp", time.time_ns())
    events: list[Event] = []
    action = threading.Thread(target=lambda: events.append(_act(at_seconds or 0, command or [])))
    if command:
        action.start()
    enter = ["nsenter", f"--net={path_of(netns)}"] if netns else []
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) >= STEP_SECONDS:
        client = [
            *(*enter, "iperf3", "--client", address, "--port", str(port), "--json"),
            *("--interval", str(STEP_SECONDS), "--time", str(max(round(left), 1))),
            *("--connect-timeout", str(CONNECT_MS), "--snd-timeout", str(ANSWER_MS)),
            *(("--udp", "--bitrate", udp_rate, "--get-server-output") if udp_rate else ()),
        ]
        begin_ns = time.time_ns()
        result.add(_client(client, left + GRACE_SECONDS), begin_ns)
        time.sleep(PAUSE_SECONDS)
    result.end_ns = time.time_ns()
    if command:
        action.join()
        result.event = events[0]
    return result


def _act(at_seconds: float, command: list[str]) -> Event:
    time.sleep(at_seconds)
    begin_ns = time.time_ns()
    try:
        status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        status = 127
    return Event(command, begin_ns, time.time_ns(), status)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m measure iperf", description=__doc__)
    parser.add_argument("address", help="where `iperf3 --server` listens")
    parser.add_argument("--port", type=int, default=5201)
    parser.add_argument("--netns", help="the client's network namespace (name or path)")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--udp", metavar="RATE", help="UDP at this rate (as 500M) instead of TCP")
    parser.add_argument("--at", type=float, metavar="SECONDS", help="when to run COMMAND")
    parser.add_argument("--json", type=Path, required=True, help="file for the result")
    parser.add_argument("command", nargs="*", metavar="-- COMMAND", help="the event")
    chosen = parser.parse_args(argv)
    if (chosen.at is None) != (not chosen.command):
        parser.error("--at SECONDS and -- COMMAND belong together")
    return chosen


def main(argv: list[str]) -> int:
    """Measure; the status is 1 if nothing came through or the command failed."""
    chosen = _arguments(argv)
    result = measure(
        chosen.address,
        chosen.port,
        chosen.seconds,
        netns=chosen.netns,
        udp_rate=chosen.udp,
        at_seconds=chosen.at,
        command=chosen.command,
    )
    chosen.json.write_text(json.dumps(asdict(result)) + "\n")
    size = sum(step[2] for step in result.steps)
    seconds = (result.end_ns - result.begin_ns) / 1e9
    sys.stdout.write(
        f"{result.transport} to {result.target}: {8 * size / seconds / 1e6:.0f} Mbit/s "
        f"by {result.clients} clients\n"
    )
    for error in result.errors:
        sys.stdout.write(f"  {error}\n")
    return int(not size or (result.event is not None and result.event.status != 0))
