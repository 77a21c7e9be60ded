"""Synthetic flows with realistic distributions, as NumPy columns.

Addresses and autonomous systems follow Zipf's law, most flows go to a few well-known ports, sizes
are heavy-tailed. Everything is a function of the seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]

HOSTS = 1 << 16
PORTS = np.array([443, 80, 53, 22, 25, 123, 993, 3389, 8080, 5060])
PORT_SHARES = np.array([48, 14, 14, 4, 2, 3, 2, 1, 4, 1]) / 93
PROTOCOLS = np.array([6, 17, 1])
PROTOCOL_SHARES = np.array([0.78, 0.20, 0.02])
TOS = np.array([0, 0, 0, 0, 0, 0, 40, 46 << 2])
TCP_FLAGS = np.array([0x1B, 0x1B, 0x1B, 0x1A, 0x12, 0x02, 0x14, 0x10])


class Traffic:
    """A source of flows; ``draw`` continues where it left off."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        share = 1 / np.arange(1, HOSTS + 1) ** 1.05
        self._cumulated = np.cumsum(share / share.sum())
        self._clients = self._rng.permutation(1 << 22)[:HOSTS] + (10 << 24)
        self._servers = self._rng.integers(0x17000000, 0xDF000000, HOSTS)

    def _host(self, n: int) -> NDArray[np.int64]:
        ranks = np.searchsorted(self._cumulated, self._rng.random(n))
        return np.minimum(ranks, HOSTS - 1)

    def draw(self, n: int) -> Columns:
        """``n`` flows: one int64 column of ``n`` values for each name.

        Times ``first`` and ``last`` are ms before the export.
        """
        rng = self._rng
        client, server = self._host(n), self._host(n)
        inbound = rng.random(n) < 0.5
        ephemeral = rng.integers(32768, 61000, n)
        service = rng.choice(PORTS, n, p=PORT_SHARES)
        protocol = rng.choice(PROTOCOLS, n, p=PROTOCOL_SHARES)
        packets = np.minimum((rng.pareto(1.1, n) + 1).astype(np.int64), 200_000)
        size = np.where(packets > 3, rng.integers(60, 1500, n), rng.integers(40, 300, n))
        last = rng.exponential(800, n).astype(np.int64)
        duration = np.where(packets > 1, rng.exponential(4000, n), 0).astype(np.int64)
        a, b = self._clients[client], self._servers[server]
        own_as, other_as = np.full(n, 64500), self._servers[server] >> 13 & 0xFFFF
        interfaces = rng.integers(1, 17, (2, n))
        return {
            "src_addr": np.where(inbound, b, a),
            "dst_addr": np.where(inbound, a, b),
            "src_port": np.where(protocol == 1, 0, np.where(inbound, service, ephemeral)),
            "dst_port": np.where(protocol == 1, 2048, np.where(inbound, ephemeral, service)),
            "protocol": protocol,
            "tos": rng.choice(TOS, n),
            "tcp_flags": np.where(protocol == 6, rng.choice(TCP_FLAGS, n), 0),
            "bytes": np.minimum(packets * size, 0xFFFFFFFF),
            "packets": packets,
            "first": last + duration,
            "last": last,
            "in_if": interfaces[0],
            "out_if": interfaces[1],
            "next_hop": (0xC0000200 + (other_as & 15)),
            "src_as": np.where(inbound, other_as, own_as),
            "dst_as": np.where(inbound, own_as, other_as),
        }
