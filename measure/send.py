"""``python -m measure send``: numbered flow records, at an even rate, each of them logged."""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from appliance.drill.sender import Sender
from appliance.drill.sendlog import SendLog
from appliance.drill.streams import MAX_RECORDS, MAX_RUN, PROTOCOLS
from measure.namespace import enter


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m measure send", description=__doc__)
    parser.add_argument("address", help="of the collector or VIP, IPv4 or IPv6")
    parser.add_argument("port", type=int)
    parser.add_argument("--netns", help="send from this network namespace (name or path)")
    parser.add_argument("--rate", type=int, default=10_000, help="datagrams/s (default 10000)")
    parser.add_argument("--seconds", type=float, default=10, help="default 10; SIGTERM ends it too")
    parser.add_argument(
        "--protocol",
        default="ipfix,v9",
        help=f"one or more of {','.join(PROTOCOLS)}, sent in turn (default ipfix,v9)",
    )
    parser.add_argument("--records", type=int, default=2, help="of a datagram (default 2)")
    parser.add_argument(
        "--template-seconds", type=float, default=1, help="from template to template (default 1)"
    )
    parser.add_argument(
        "--run",
        type=int,
        default=int(time.time()) % MAX_RUN + 1,
        help="number of this run, its observation domain (default: from the clock)",
    )
    parser.add_argument("--log", type=Path, required=True, help="file for the judge (.npz)")
    chosen = parser.parse_args(argv)
    chosen.protocol = tuple(chosen.protocol.split(","))
    unknown = [name for name in chosen.protocol if name not in PROTOCOLS]
    if unknown or len(set(chosen.protocol)) < len(chosen.protocol):
        parser.error(f"--protocol: each of {', '.join(PROTOCOLS)} at most once")
    if not 1 <= chosen.run <= MAX_RUN:
        parser.error(f"--run: 1 to {MAX_RUN}")
    if not 1 <= chosen.records <= MAX_RECORDS:
        parser.error(f"--records: 1 to {MAX_RECORDS}")
    if chosen.rate < 1:
        parser.error("--rate: at least 1")
    return chosen


def main(argv: list[str]) -> int:
    """Send; the summary goes to standard output as JSON."""
    chosen = _arguments(argv)
    try:
        if chosen.netns:
            enter(chosen.netns)
        sender = Sender(
            chosen.address,
            chosen.port,
            chosen.protocol,
            run=chosen.run,
            rate=chosen.rate,
            records=chosen.records,
            template_seconds=chosen.template_seconds,
        )
    except OSError as error:
        sys.stderr.write(f"cannot send to {chosen.address} port {chosen.port}: {error}\n")
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sender.stop())
    gc.disable()  # its pauses would be seen as gaps
    with suppress(PermissionError):
        # an exporter has a processor of its own, and does not wait for those of the nodes
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    began = time.process_time()
    log = sender.send(chosen.seconds)
    used = time.process_time() - began
    sender.close()
    log.save(chosen.log)
    json.dump(summary(log, used), sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


def summary(log: SendLog, processor_seconds: float) -> dict[str, object]:
    """What was sent, in figures."""
    times = log.monotonic_ns
    seconds = float(times[-1] - times[0]) / 1e9 if len(times) > 1 else 0.0
    rate = float(log.sent - log.datagrams[-1]) / seconds if seconds else 0.0
    return {
        "run": log.load.run,
        "source": log.load.source,
        "sent_datagrams": log.sent,
        "sent_records": log.sent * log.load.records,
        "errors": log.errors,
        "seconds": round(seconds, 3),
        "datagrams_per_second": round(rate, 1),
        "largest_pause_ms": round(float(np.diff(times).max(initial=0)) / 1e6, 3),
        "processor_percent": round(100 * processor_seconds / seconds, 1) if seconds else None,
        "first_ns": int(log.wall_ns[0]) if len(times) else None,
        "last_ns": int(log.wall_ns[-1]) if len(times) else None,
    }
