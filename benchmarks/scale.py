"""Many exporters with many templates, against one exporter with one."""

from __future__ import annotations

from benchmarks.collectors import Tandem
from benchmarks.compare import SETTLE_SECONDS, blocks, working_directory
from benchmarks.generate import Generator
from benchmarks.process import free_port, running
from benchmarks.report import Table, count, ratio
from benchmarks.send import Sender

TEMPLATES = 20


def measure(exporters: int, datagrams: int, rate: float) -> Table:
    """CPU time a flow, and memory, of both; learning the templates is counted apart."""
    table = Table(
        f"{count(exporters)} exporters with {TEMPLATES} templates each",
        ["case", "CPU µs/flow", "ratio", "learning CPU s", "memory MB", "stored", "sent"],
    )
    first = 0.0
    for senders, templates in ((1, 1), (exporters, TEMPLATES)):
        generator = Generator("v9", senders, templates)
        known, *loads = blocks(generator, datagrams)
        port, tandem = free_port(), Tandem()
        with working_directory() as directory:
            command = tandem.command("v9", port, directory)
            sender = Sender(port, rate, senders)
            try:
                with running(command, port, directory.with_name("log")) as collector:
                    sender.send(known)
                    collector.settle(SETTLE_SECONDS)
                    learning = collector.cpu()
                    for load in loads:
                        sender.send(load)
                    collector.settle(SETTLE_SECONDS)
                    cpu, resident = collector.cpu() - learning, collector.resident_bytes()
            finally:
                sender.close()
            stored, _ = tandem.stored(directory)
        sent = sum(load.flows for load in loads)
        cost = cpu / max(stored, 1) * 1e6
        first = first or cost
        table.rows.append(
            [
                f"{count(senders)} × {templates}",
                f"{cost:.3f}",
                ratio(cost, first),
                f"{learning:.2f}",
                count(resident / 1e6),
                count(stored),
                count(sent),
            ]
        )
    table.notes.append("memory: resident, of all processes; ratio to one exporter and template")
    return table
