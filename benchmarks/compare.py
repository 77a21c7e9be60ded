"""Socket to store: the same datagrams to each collector, one after another."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.collectors import CONTENDERS, Contender
from benchmarks.generate import RECORDS, Generator, Load
from benchmarks.process import free_port, running
from benchmarks.report import Table, count, ratio
from benchmarks.send import Sender

EXPORTERS = 8
BLOCK = 4096
SETTLE_SECONDS = 120
TITLES = {
    "v9": "NetFlow v9, 24 records of 14 fields a datagram",
    "v5": "NetFlow v5, 30 records a datagram",
    "ipfix": "IPFIX, 24 records with one variable-length field a datagram",
    "sflow": "sFlow v5, 4 samples with a raw header a datagram",
}


@dataclass(slots=True)
class Outcome:
    """What one run of one collector came to."""

    sent: int
    """Flows."""
    stored: int
    stored_bytes: int
    dropped: int
    """Datagrams, by the kernel."""
    cpu_seconds: float
    rate: float
    """Datagrams sent a second."""
    lag_seconds: float
    """From the last datagram to rest."""
    resident_bytes: int

    @property
    def microseconds(self) -> float:
        """CPU time a stored flow."""
        return self.cpu_seconds / self.stored * 1e6 if self.stored else 0.0


def blocks(generator: Generator, datagrams: int) -> Iterator[Load]:
    """The templates, then data: ``datagrams`` in whole blocks, at least one."""
    yield generator.templates()
    for _ in range(max(1, round(datagrams / BLOCK))):
        yield generator.block(BLOCK)


@contextlib.contextmanager
def working_directory() -> Iterator[Path]:
    """An empty directory for one collector, in one that goes with it."""
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name:
        directory = Path(name, "files")
        directory.mkdir()
        yield directory


def run(
    contender: Contender, generator: Generator, loads: Iterable[Load], rate: float, directory: Path
) -> Outcome:
    """Send ``loads`` to a fresh collector whose files are in the empty ``directory``."""
    log = directory.with_name("log")
    port = free_port()
    command = contender.command(generator.protocol, port, directory)
    sent = 0
    sender = Sender(port, rate, generator.exporters)
    try:
        with running(command, port, log) as collector:
            for load in loads:
                sender.send(load)
                sent += load.flows
            lag = collector.settle(SETTLE_SECONDS)
            dropped, resident = collector.dropped(), collector.resident_bytes()
    finally:
        sender.close()
    stored, size = contender.stored(directory)
    return Outcome(
        sent=sent,
        stored=stored,
        stored_bytes=size,
        dropped=dropped,
        cpu_seconds=collector.cpu_seconds,
        rate=sender.datagrams / sender.seconds,
        lag_seconds=lag,
        resident_bytes=resident,
    )


def compare(protocol: str, datagrams: int, rate: float) -> Table:
    """A table of all collectors for ``protocol``."""
    generator = Generator(protocol, EXPORTERS)
    loads = list(blocks(generator, datagrams))
    table = Table(
        TITLES[protocol],
        ["collector", "CPU µs/flow", "ratio", "flows/s a core", "stored", "sent", "bytes/flow"],
    )
    ours = 0.0
    for contender in CONTENDERS:
        if missing := contender.missing(protocol):
            table.notes.append(f"without {missing}: not installed")
            continue
        with working_directory() as directory:
            outcome = run(contender, generator, loads, rate, directory)
        cost = outcome.microseconds
        ours = ours or cost
        table.rows.append(
            [
                contender.programs[protocol],
                f"{cost:.3f}",
                ratio(ours, cost),
                count(1e6 / cost) if cost else "–",
                count(outcome.stored),
                count(outcome.sent),
                f"{outcome.stored_bytes / outcome.stored:.1f}" if outcome.stored else "–",
            ]
        )
        if outcome.dropped:
            dropped = count(outcome.dropped)
            table.notes.append(f"{contender.name}: the kernel dropped {dropped} datagrams")
    total = sum(map(len, loads))
    table.notes.append(
        f"{count(total)} datagrams of up to {RECORDS[protocol]} flows, {count(rate)}/s at most, "
        f"from {EXPORTERS} exporters; ratio: CPU time of tandem to that of the row"
    )
    return table
