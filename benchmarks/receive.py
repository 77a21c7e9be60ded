"""Receiving and journalling alone, against a loop that does nothing but recvmmsg.

As a program (``python -m benchmarks.receive journal|bare PORT DIRECTORY``) it is one of the two;
both gather datagrams for the same time between wake-ups, so that the difference is the journal's.
At SIGTERM it prints how many datagrams it took, and its CPU seconds for them.
"""

from __future__ import annotations

import mmap
import select
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from appliance.journal.block import CONTROL_BYTES, MESSAGE_DTYPE, SLOT_BYTES, VECTOR_DTYPE
from appliance.journal.journal import Journal
from appliance.receive.receiver import GATHER_SECONDS, Intake, Receiver
from appliance.receive.recvmmsg import receive
from appliance.receive.sockets import Endpoint, open_group
from benchmarks.collectors import RECEIVE_BUFFER
from benchmarks.compare import EXPORTERS, blocks, working_directory
from benchmarks.generate import Generator, Load
from benchmarks.process import free_port, running
from benchmarks.report import Table, count, ratio
from benchmarks.send import Sender

PROGRAMS = {"bare": "a bare recvmmsg loop", "journal": "receiver with journal"}
SLOTS = 1024
JOURNAL_BYTES = 1 << 30


def measure(datagrams: int, rate: float, rounds: int) -> Table:
    """CPU time a datagram of both programs on the same NetFlow v9; the cheapest of each."""
    loads = list(blocks(Generator("v9", EXPORTERS), datagrams))
    table = Table(
        "Receiving and journalling alone",
        ["program", "CPU µs/datagram", "ratio", "received", "sent"],
    )
    found = [[_run(name, loads, rate) for name in PROGRAMS] for _ in range(rounds)]
    best = [min(runs) for runs in zip(*found, strict=True)]
    for title, (cost, received, sent) in zip(PROGRAMS.values(), best, strict=True):
        row = [title, f"{cost:.2f}", ratio(cost, best[0][0]), count(received), count(sent)]
        table.rows.append(row)
    table.notes.append(
        f"{count(rate)} datagrams/s at most, one socket; the cheapest of {rounds} rounds; "
        "ratio to the bare loop"
    )
    return table


def _run(name: str, loads: Iterable[Load], rate: float) -> tuple[float, int, int]:
    with working_directory() as directory:
        log, port = directory.with_name("log"), free_port()
        command = [sys.executable, "-m", "benchmarks.receive", name, str(port), str(directory)]
        sender = Sender(port, rate, EXPORTERS)
        try:
            with running(command, port, log) as program:
                for load in loads:
                    sender.send(load)
                program.settle(10)
        finally:
            sender.close()
        received, seconds = log.read_text().split()
    return float(seconds) / max(int(received), 1) * 1e6, int(received), sender.datagrams


def main() -> None:
    """One of the two programs; see the module."""
    name, port, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    sock = open_group(Endpoint("udp", "127.0.0.1", port), 1, RECEIVE_BUFFER)[0]
    if name == "journal":
        journal = Journal(directory, JOURNAL_BYTES)
        intake = Intake("benchmark", sock, journal)
        receiver = Receiver()
        receiver.start()
        receiver.add([intake], [])
        begun = time.process_time()
        while not stopping:
            time.sleep(0.1)
            journal.trim(journal.position)  # as if all were stored at once
        receiver.stop()
        print(intake.datagrams, time.process_time() - begun)
        return
    # the kernel writes through these addresses: the arrays live as long as the loop
    memory = mmap.mmap(-1, SLOTS * (SLOT_BYTES + CONTROL_BYTES + 64))
    base = np.frombuffer(memory, np.uint8).ctypes.data
    slot = np.arange(SLOTS)
    vectors = np.zeros(SLOTS, VECTOR_DTYPE)
    vectors["base"] = base + slot * SLOT_BYTES
    vectors["length"] = SLOT_BYTES
    messages = np.zeros(SLOTS, MESSAGE_DTYPE)
    messages["vector"] = vectors.ctypes.data + slot * VECTOR_DTYPE.itemsize
    messages["vector_length"] = 1
    messages["name"] = base + SLOTS * SLOT_BYTES + slot * 64
    messages["control"] = base + SLOTS * (SLOT_BYTES + 64) + slot * CONTROL_BYTES
    taken = 0
    begun = time.process_time()
    while not stopping:
        select.select([sock], [], [], 0.1)
        while True:
            messages["name_length"] = 28
            messages["control_length"] = CONTROL_BYTES
            now = receive(sock.fileno(), messages.ctypes.data, SLOTS)
            taken += now
            if now < SLOTS:
                break
        time.sleep(GATHER_SECONDS)
    print(taken, time.process_time() - begun)


if __name__ == "__main__":
    main()
