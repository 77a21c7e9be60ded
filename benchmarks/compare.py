"""Socket to store: the same datagrams to each collector, one after another."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.collectors import CONTENDERS, Contender
from benchmarks.generate import Generator, Load
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
    """Flows sent a second."""
    resident_bytes: int

    @property
    def microseconds(self) -> float:
        """CPU time a stored flow."""
        return self.cpu_seconds / self.stored * 1e6 if self.stored else float("inf")


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
        with running(command, port, log, contender.end) as collector:
            for load in loads:
                sender.send(load)
                sent += load.flows
            collector.settle(SETTLE_SECONDS)
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
        rate=sent / sender.seconds,
        resident_bytes=resident,
    )


def compare(protocol: str, datagrams: int, rate: float, rounds: int) -> Table:
    """A table of all collectors for ``protocol``; of ``rounds`` runs, the cheapest of each."""
    generator = Generator(protocol, EXPORTERS)
    loads = list(blocks(generator, datagrams))
    head = ["collector", "CPU µs/flow", "ratio", "flows/s a core", "stored", "sent", "sent/s"]
    table = Table(TITLES[protocol], [*head, "memory MB"])
    outcomes: dict[Contender, list[Outcome]] = {}
    for number in range(rounds):
        for contender in CONTENDERS:
            if missing := contender.missing(protocol):
                if not number:
                    table.notes.append(f"without {missing}: not installed")
            elif contender.pace == 1 or not number:  # the slow ones once
                with working_directory() as directory:
                    outcome = run(contender, generator, loads, rate * contender.pace, directory)
                outcomes.setdefault(contender, []).append(outcome)
    best = {c: min(found, key=lambda o: o.microseconds) for c, found in outcomes.items()}
    ours = best[CONTENDERS[0]].microseconds
    for contender, outcome in best.items():
        cost = outcome.microseconds
        table.rows.append(
            [
                contender.programs[protocol],
                f"{cost:.3f}",
                ratio(ours, cost),
                count(1e6 / cost),
                count(outcome.stored),
                count(outcome.sent),
                count(outcome.rate),
                count(outcome.resident_bytes / 1e6),
            ]
        )
        if dropped := sum(o.dropped for o in outcomes[contender]):
            table.notes.append(f"{contender.name}: the kernel dropped {count(dropped)} datagrams")
    table.notes.append(
        f"{count(sum(map(len, loads)))} datagrams from {EXPORTERS} exporters; the cheapest of "
        f"{rounds} rounds; ratio: CPU time of tandem to that of the row"
    )
    return table
