"""Traffic between the demo's clients and servers: ``python -m demo.traffic serve|load EDGES``.

Requests of a few kinds and sizes, at a rate that no machine notices: about 2 Mbit/s an edge.
"""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import suppress

from demo.network import client_addresses, server_addresses

STREAMS = {443: 12, 80: 4, 22: 2, 8080: 1}
"""TCP ports of the servers, with how often clients choose them."""
QUERIES = {53: 8, 123: 1}
"""UDP ports, likewise."""
MEDIAN_BYTES = 20_000
LARGEST_BYTES = 1_500_000
PAUSE_SECONDS = 0.25
"""Mean time between the requests of an edge's clients."""


class Answers(asyncio.DatagramProtocol):
    """Answers each datagram with one three times as long, as name servers do."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket to answer on."""
        assert isinstance(transport, asyncio.DatagramTransport)
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer."""
        self.transport.sendto(data * 3, addr)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A connection: a line says how many bytes are wanted."""
    with suppress(OSError, ValueError):
        wanted = int(await reader.readline())
        while wanted > 0:
            writer.write(bytes(min(wanted, 16_384)))
            await writer.drain()
            wanted -= 16_384
            await asyncio.sleep(0.005)
    writer.close()


async def serve(edges: int) -> None:
    """Be all servers, until stopped."""
    loop = asyncio.get_running_loop()
    for port in STREAMS:
        await asyncio.start_server(answer, "::", port)
        await asyncio.start_server(answer, "0.0.0.0", port)
    for number in range(1, edges + 1):
        for address in server_addresses(number):
            for port in QUERIES:
                await loop.create_datagram_endpoint(Answers, local_addr=(address, port))
    await asyncio.Event().wait()


def _choose(chance: random.Random, weights: dict[int, int]) -> int:
    return chance.choices(list(weights), list(weights.values()))[0]


async def request(chance: random.Random, number: int) -> None:
    """One request of one client behind edge ``number``."""
    family = chance.choice((slice(0, 3), slice(0, 3), slice(3, 6)))
    client = chance.choice(client_addresses(number)[family])
    server = chance.choice(server_addresses(number)[family])
    with suppress(OSError):
        if chance.random() < 0.3:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol,
                local_addr=(client, 0),
                remote_addr=(server, _choose(chance, QUERIES)),
            )
            transport.sendto(bytes(chance.randint(30, 90)))
            await asyncio.sleep(0.5)
            transport.close()
            return
        reader, writer = await asyncio.open_connection(
            server, _choose(chance, STREAMS), local_addr=(client, 0)
        )
        size = min(int(chance.lognormvariate(0, 1.5) * MEDIAN_BYTES), LARGEST_BYTES)
        writer.write(f"{size}\n".encode())
        while await reader.read(65_536):
            pass
        writer.close()


async def load(edges: int) -> None:
    """Be all clients, until stopped."""
    chance = random.Random()

    async def behind(number: int) -> None:
        running: set[asyncio.Task[None]] = set()
        while True:
            await asyncio.sleep(chance.expovariate(1 / PAUSE_SECONDS))
            if len(running) < 50:
                task = asyncio.create_task(request(chance, number))
                running.add(task)
                task.add_done_callback(running.discard)

    await asyncio.gather(*(behind(number) for number in range(1, edges + 1)))


if __name__ == "__main__":
    asyncio.run({"serve": serve, "load": load}[sys.argv[1]](int(sys.argv[2])))
