"""The manifest of a table: which ranges of segments are packed, and into which Parquet files.

``<table>/manifest.json`` is replaced by one rename, and that rename is the only step by which a
compaction becomes visible: before it, readers use the hot segments and ignore the Parquet files
already written; after it, they use the Parquet files and ignore the hot segments not yet deleted.
It also spares readers from opening thousands of files, because it has the times of each.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from appliance.store.durable import replace_file

MANIFEST = "manifest.json"
_VERSION = 1


class ManifestError(ValueError):
    """The manifest of a table cannot be understood."""


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a range."""

    part: str
    """UTC hour ``YYYYMMDDHH`` (flows, counters, options) or day ``YYYYMMDD`` (roll-ups)."""
    rows: int
    size: int
    """Bytes on disk."""
    min_ns: int
    max_ns: int
    """Smallest and largest time in it (``received_ns``, or ``minute_ns`` of roll-ups)."""


@dataclass(frozen=True, slots=True)
class Range:
    """Segments ``first`` to ``last`` of one node and shard, packed into ``parts``."""

    node: str
    shard: int
    first: int
    last: int
    committed_ns: int
    """Wall-clock time of the commit, ns since the epoch."""
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """Rows in all parts."""
        return sum(p.rows for p in self.parts)

    def covers(self, first: int, last: int) -> bool:
        """Whether segments ``first`` to ``last`` all lie in the range."""
        return self.first <= first and last <= self.last


@dataclass(frozen=True)
class Manifest:
    """All packed ranges of a table; ranges of one node and shard never overlap."""

    ranges: tuple[Range, ...] = ()

    @cached_property
    def _by_shard(self) -> dict[tuple[str, int], tuple[list[int], list[Range]]]:
        table: dict[tuple[str, int], tuple[list[int], list[Range]]] = {}
        for r in sorted(self.ranges, key=lambda r: r.first):
            firsts, ranges = table.setdefault((r.node, r.shard), ([], []))
            firsts.append(r.first)
            ranges.append(r)
        return table

    def of_shard(self, node: str, shard: int) -> list[Range]:
        """The ranges of one node and shard, in order."""
        return list(self._by_shard.get((node, shard), ([], []))[1])

    def shards(self) -> list[tuple[str, int]]:
        """Every (node, shard) that has a range."""
        return sorted(self._by_shard)

    def find(self, node: str, shard: int, first: int, last: int) -> Range | None:
        """The range that holds segments ``first`` to ``last``, if one does."""
        firsts, ranges = self._by_shard.get((node, shard), ([], []))
        i = bisect_right(firsts, first) - 1
        return ranges[i] if i >= 0 and ranges[i].covers(first, last) else None

    def touches(self, node: str, shard: int, first: int, last: int) -> bool:
        """Whether a range has a number in common with segments ``first`` to ``last``."""
        firsts, ranges = self._by_shard.get((node, shard), ([], []))
        i = bisect_right(firsts, last) - 1
        return i >= 0 and ranges[i].last >= first

    def with_changes(self, remove: Iterable[Range], add: Iterable[Range]) -> Manifest:
        """A manifest without the ranges ``remove`` and with ``add``; refuses an overlap."""
        gone = set(remove)
        ranges = [r for r in self.ranges if r not in gone] + list(add)
        ranges.sort(key=lambda r: (r.node, r.shard, r.first))
        for a, b in pairwise(ranges):
            if (a.node, a.shard) == (b.node, b.shard) and b.first <= a.last:
                raise ManifestError(
                    f"ranges {a.first}-{a.last} and {b.first}-{b.last} of "
                    f"{a.node}-{a.shard} overlap"
                )
        return Manifest(tuple(ranges))


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON: one line a range, so that a person can read it."""
    lines = [
        json.dumps(
            [r.node, r.shard, r.first, r.last, r.committed_ns]
            + [[p.part, p.rows, p.size, p.min_ns, p.max_ns] for p in r.parts],
            separators=(",", ":"),
        )
        for r in manifest.ranges
    ]
    return (f'{{"version":{_VERSION},"ranges":[\n' + ",\n".join(lines) + "\n]}\n").encode()


def decode(data: bytes) -> Manifest:
    """The manifest in ``data``."""
    try:
        document = json.loads(data)
        if document["version"] != _VERSION:
            raise ManifestError(f"version {document['version']}, this software knows {_VERSION}")
        ranges = [
            Range(node, shard, first, last, committed, tuple(Part(*p) for p in parts))
            for node, shard, first, last, committed, *parts in document["ranges"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"not a manifest: {error}") from error
    return Manifest().with_changes((), ranges)


_cache: dict[str, tuple[tuple[int, int, int], Manifest]] = {}


def load(table: Path) -> Manifest:
    """The manifest of directory ``table``; empty when there is none.

    The same object as last time while the file is the same, so ``is`` tells whether it changed.
    """
    path = table / MANIFEST
    key = str(path)
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            # a replaced file can get the same inode again, but not with the same time and size
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
            known = _cache.get(key)
            if known is not None and known[0] == identity:
                return known[1]
            manifest = decode(file.read())
    except FileNotFoundError:
        return _EMPTY
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error
    _cache[key] = (identity, manifest)
    return manifest


_EMPTY = Manifest()


def commit(table: Path, remove: Iterable[Range], add: Iterable[Range]) -> Manifest:
    """Replace ranges in one step, durably. The caller holds the store's lock."""
    manifest = load(table).with_changes(remove, add)
    replace_file(table / MANIFEST, encode(manifest))
    return manifest
