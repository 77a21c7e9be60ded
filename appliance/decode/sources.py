"""Exporters and sources by dense number.

A *source* is what has templates, sequence numbers and ledger rows of its own: one exporter
(address), one export protocol, one observation domain. RFC 7011 calls the last two the scope of a
template; the exporter's port is never part of it, because exporters change ports at restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from appliance.batch import U8

COLUMNS = ("exporter", "protocol", "domain")
OVERFLOW = 0
"""Exporter 0, address ``::``, stands for all exporters beyond the limit."""


@dataclass(frozen=True, slots=True)
class Source:
    """See the module; ``exporter`` is the exporter's number."""

    exporter: int
    protocol: int
    domain: int


@dataclass(slots=True)
class SourceTable:
    """Interns exporter addresses and sources; numbers are never reused while the table lives."""

    max_exporters: int = 65536
    max_domains: int = 256
    """Observation domains kept apart per exporter; further ones share domain 2**32 - 1."""
    max_sources: int = 262_144
    """Sources in all; from then on every exporter has its one shared domain only."""
    addresses: list[bytes] = field(default_factory=lambda: [bytes(16)])
    sources: list[Source] = field(default_factory=list)
    _exporter: dict[bytes, int] = field(default_factory=lambda: {bytes(16): OVERFLOW})
    _domains: dict[int, int] = field(default_factory=dict)
    _numbers: dict[int, dict[int, int]] = field(default_factory=dict)
    """By protocol: source by ``exporter << 32 | domain``."""
    _columns: dict[str, NDArray[np.int64]] = field(
        default_factory=lambda: {name: np.zeros(0, np.int64) for name in COLUMNS}
    )

    def exporters(self, address: U8) -> NDArray[np.int64]:
        """Exporter numbers of addresses ``uint8 (n, 16)``; new ones are added up to the limit."""
        if not len(address):
            return np.zeros(0, np.int64)
        words = np.ascontiguousarray(address).view(np.uint64)
        # one multiply-mix is enough to tell few thousand addresses apart; collisions are checked
        key = words[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ words[:, 1]
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        if (words[first][inverse] != words).any():
            whole = np.ascontiguousarray(address).view("V16").ravel()
            table = {a: self._exporter_of(a) for a in {bytes(w) for w in whole}}
            return np.fromiter((table[bytes(w)] for w in whole), np.int64, len(whole))
        known = self._exporter
        found = np.ascontiguousarray(address[first]).view("V16").ravel().tolist()
        numbers = [known[a] if a in known else self._exporter_of(a) for a in found]
        return np.asarray(numbers, np.int64)[inverse]

    def _exporter_of(self, address: bytes) -> int:
        number = self._exporter.get(address)
        if number is None:
            if len(self.addresses) >= self.max_exporters:
                return OVERFLOW
            number = len(self.addresses)
            self.addresses.append(address)
            self._exporter[address] = number
        return number

    def intern(
        self, exporter: NDArray[np.int64], protocol: int, domain: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Source numbers of ``n`` (exporter, domain) pairs of one export protocol."""
        if not len(exporter):
            return np.zeros(0, np.int64)
        key = exporter << 32 | domain
        unique, inverse = np.unique(key, return_inverse=True)
        known = self._numbers.setdefault(protocol, {})
        numbers = [
            known[k] if k in known else self._source_of(k >> 32, protocol, k & 0xFFFFFFFF)
            for k in unique.tolist()
        ]
        return np.asarray(numbers, np.int64)[inverse]

    def columns(self) -> Mapping[str, NDArray[np.int64]]:
        """The sources as arrays: ``exporter``, ``protocol`` and ``domain`` by source number."""
        have, want = len(self._columns["exporter"]), len(self.sources)
        if have < want:
            new = np.asarray([(s.exporter, s.protocol, s.domain) for s in self.sources[have:]])
            self._columns = {
                name: np.concatenate([self._columns[name], new[:, k]])
                for k, name in enumerate(COLUMNS)
            }
        return self._columns

    def _source_of(self, exporter: int, protocol: int, domain: int) -> int:
        numbers = self._numbers.setdefault(protocol, {})
        number = numbers.get(exporter << 32 | domain)
        if number is None:
            count = self._domains.get(exporter, 0)
            full = count >= self.max_domains or len(self.sources) >= self.max_sources
            if full and domain != 0xFFFFFFFF:
                return self._source_of(exporter, protocol, 0xFFFFFFFF)
            self._domains[exporter] = count + 1
            number = len(self.sources)
            self.sources.append(Source(exporter, protocol, domain))
            numbers[exporter << 32 | domain] = number
        return number

    def dump(self) -> dict[str, list[object]]:
        """Plain values for the checkpoint."""
        return {
            "addresses": [a.hex() for a in self.addresses],
            "sources": [[s.exporter, s.protocol, s.domain] for s in self.sources],
        }

    def load(self, dumped: dict[str, list[object]]) -> None:
        """Restore what :meth:`dump` gave; numbers stay the same."""
        self.addresses = [bytes.fromhex(str(a)) for a in dumped["addresses"]]
        self._exporter = {a: i for i, a in enumerate(self.addresses)}
        self.sources, self._numbers, self._domains = [], {}, {}
        self._columns = {name: values[:0] for name, values in self._columns.items()}
        for triple in dumped["sources"]:
            exporter, protocol, domain = (int(x) for x in triple)  # type: ignore[attr-defined]
            self._numbers.setdefault(protocol, {})[exporter << 32 | domain] = len(self.sources)
            self._domains[exporter] = self._domains.get(exporter, 0) + 1
            self.sources.append(Source(exporter, protocol, domain))
