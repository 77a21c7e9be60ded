"""For the tests of ``measure``: collectors, and a network between sender and collectors."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.drill.sender import Sender
from appliance.drill.sendlog import SendLog
from tests.integration.harness import Collector

SETTLE_SECONDS = 0.8
"""The collectors flush every 0.2 s."""

Route = Callable[[int], list[int]]
"""Ports that the ``i``-th datagram goes to."""


@contextmanager
def collectors(directory: Path, count: int) -> Iterator[list[Collector]]:
    """Running collectors, each with a data directory of its own."""
    made = []
    try:
        for i in range(count):
            folder = directory / f"n{i + 1}"
            folder.mkdir()
            made.append(Collector(folder))
            made[-1].start()
        yield made
    finally:
        for one in made:
            one.end()


class Network(threading.Thread):
    """Takes datagrams at ``port`` and passes each on, or not, or twice, as ``route`` says."""

    def __init__(self, route: Route) -> None:
        super().__init__(daemon=True)
        self._route = route
        self._inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._inside.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._inside.bind(("127.0.0.1", 0))
        self._inside.settimeout(0.5)
        self.port = int(self._inside.getsockname()[1])
        self.passed = 0

    def run(self) -> None:
        with self._inside, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
            outside.bind(("127.0.0.1", 0))
            while True:
                try:
                    datagram = self._inside.recv(65536)
                except TimeoutError:
                    return
                for port in self._route(self.passed):
                    outside.sendto(datagram, ("127.0.0.1", port))
                self.passed += 1


def send_through(
    route: Route,
    log: Path,
    count: int,
    *,
    run: int,
    protocols: tuple[str, ...] = ("ipfix", "v9"),
) -> SendLog:
    """Send a load of ``count`` datagrams, or some more, through a network, and log it."""

    def until_enough(i: int) -> list[int]:
        if i == count:
            sender.stop()
        return route(i)

    network = Network(until_enough)
    sender = Sender("127.0.0.1", network.port, protocols, run=run, rate=2000, template_seconds=0.2)
    network.start()
    sent = sender.send(60)
    sender.close()
    network.join()
    assert network.passed == sent.sent > count
    sent.save(log)
    return sent
