"""Names of the store's files, and which of them a reader has to read.

    <table>/<node>-<shard>-<number>.arrow                   hot: one flush of a shard
    <table>/hour=<YYYYMMDDHH>/<node>-<shard>-<first>-<last>.parquet   packed: the rows of segments
                                                            first to last received in that hour

A row is seen exactly once at any instant, whatever maintenance does meanwhile:

- a range of hot segments is superseded by the manifest's entry for it, not by the presence of
  Parquet files, so that several hour files appear in one step (see manifest.py);
- hot segments are listed *before* the manifest is read. One that is deleted before it was listed
  was superseded by a manifest older than the one then read;
- a packed file that the manifest names and that is not there was either replaced by a merge, then
  the manifest has changed and the reader begins again, or removed by retention.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from appliance.store import manifest as manifests
from appliance.store.durable import TEMPORARY
from appliance.store.manifest import Manifest, Range

T = TypeVar("T")

TABLES = ("flows", "counters", "options")
"""Tables of records, each a directory of the store."""

METADATA_KEY = b"tandem"
"""Key of the schema metadata that describes a segment (see :class:`Summary`)."""

_NAME = re.compile(r"(?P<node>.+)-(?P<shard>\d+)-(?P<number>\d{12,})\.arrow")
_PACKED = re.compile(r"(?P<node>.+)-(?P<shard>\d+)-(?P<first>\d{12,})-(?P<last>\d{12,})\.parquet")
_PART = re.compile(r"(?:hour=(?P<hour>\d{10})|day=(?P<day>\d{8}))")
# how a summary begins; spares parsing the counts of thousands of exporters
_FIGURES = re.compile(rb'\{"rows":(\d+),"min_received_ns":(-?\d+),"max_received_ns":(-?\d+),')
_ATTEMPTS = 100


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """What the name of a segment says; ordered by node, shard and number."""

    node: str
    shard: int
    first: int
    last: int
    hour: str | None = None
    """None for a hot segment; the UTC hour (or day, of roll-ups) that a packed one is for."""
    suffix: str = "arrow"

    @classmethod
    def hot(cls, node: str, shard: int, number: int) -> SegmentName:
        """The hot segment ``number``."""
        return cls(node, shard, number, number)

    @classmethod
    def packed(cls, node: str, shard: int, first: int, last: int, part: str) -> SegmentName:
        """The packed segment of a range for the hour or day ``part``."""
        return cls(node, shard, first, last, part, "parquet")

    @classmethod
    def parse(cls, path: str | Path) -> SegmentName | None:
        """The name that ``path`` ends with; None when it is not a segment's.

        >>> SegmentName.parse("store/flows/node-a-0-000000000007.arrow")
        SegmentName(node='node-a', shard=0, first=7, last=7, hour=None, suffix='arrow')
        """
        folder, _, name = str(path).rpartition("/")
        if match := _PACKED.fullmatch(name):
            part = _PART.fullmatch(folder.rpartition("/")[2])
            if part is None or name.startswith(TEMPORARY):
                return None
            return cls.packed(
                match["node"],
                int(match["shard"]),
                int(match["first"]),
                int(match["last"]),
                part["hour"] or part["day"],
            )
        if (match := _NAME.fullmatch(name)) and not name.startswith(TEMPORARY):
            return cls.hot(match["node"], int(match["shard"]), int(match["number"]))
        return None

    @property
    def relative(self) -> str:
        """The path inside the table's directory."""
        if self.hour is None:
            return f"{self.node}-{self.shard}-{self.first:012d}.{self.suffix}"
        name = f"{self.node}-{self.shard}-{self.first:012d}-{self.last:012d}.{self.suffix}"
        return f"{part_folder(self.hour)}/{name}"


def part_folder(part: str) -> str:
    """Directory of an hour (10 digits) or a day (8 digits)."""
    return f"hour={part}" if len(part) == 10 else f"day={part}"


@dataclass(frozen=True, slots=True)
class Summary:
    """What the metadata ``tandem`` of a segment says about its rows."""

    rows: int
    min_ns: int
    max_ns: int
    """Smallest and largest ``received_ns``."""
    exporters: dict[str, int]
    """Rows of each exporter; keys are address texts, IPv4-mapped ones as IPv4."""
    parts: tuple[str, ...] = ()
    """The hours (or days) of all files of the range, of a packed segment."""

    def to_json(self) -> bytes:
        """The value to store under :data:`METADATA_KEY`."""
        return json.dumps(
            {
                "rows": self.rows,
                "min_received_ns": self.min_ns,
                "max_received_ns": self.max_ns,
                "exporters": self.exporters,
                "parts": self.parts,
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def of(cls, metadata: dict[bytes, bytes] | None) -> Summary:
        """From the metadata of an Arrow schema or a Parquet file; ValueError if there is none."""
        try:
            document = json.loads((metadata or {})[METADATA_KEY])
            return cls(
                int(document["rows"]),
                int(document["min_received_ns"]),
                int(document["max_received_ns"]),
                {str(k): int(v) for k, v in document["exporters"].items()},
                tuple(document.get("parts", ())),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no segment metadata: {error!r}") from error


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that a reader has to read."""

    path: Path
    name: SegmentName
    rows: int
    size: int
    """Bytes on disk."""
    min_ns: int
    max_ns: int
    """Smallest and largest time in it."""


@lru_cache(maxsize=16384)
def _hot_figures(path: str) -> tuple[int, int, int, int]:
    """Rows, bytes, first and last time of a hot segment; cached, for segments never change."""
    with pa.memory_map(path) as source:
        metadata = pa.ipc.open_file(source).schema.metadata or {}
        if match := _FIGURES.match(metadata.get(METADATA_KEY, b"")):
            rows, min_ns, max_ns = map(int, match.groups())
        else:
            summary = Summary.of(metadata)
            rows, min_ns, max_ns = summary.rows, summary.min_ns, summary.max_ns
        return rows, source.size(), min_ns, max_ns


def list_hot(table: Path) -> list[SegmentName]:
    """The hot segments in ``table``, superseded ones included, in order."""
    found: set[SegmentName] = set()
    try:
        with os.scandir(table) as entries:
            for entry in entries:
                name = SegmentName.parse(entry.name)
                if name is not None:
                    found.add(name)
    except FileNotFoundError:
        pass
    return sorted(found)


def list_packed(table: Path) -> list[SegmentName]:
    """The packed files in ``table``, visible or not, in order."""
    found: list[SegmentName] = []
    for folder in list_parts(table):
        for entry in _names(table / folder):
            name = SegmentName.parse(f"{folder}/{entry}")
            if name is not None:
                found.append(name)
    return sorted(found)


def list_parts(table: Path) -> list[str]:
    """The names of the hour or day directories of ``table``, in order of time."""
    return sorted(n for n in _names(table) if _PART.fullmatch(n))


def _names(directory: Path) -> set[str]:
    try:
        return set(os.listdir(directory))
    except FileNotFoundError:
        return set()


def snapshot(
    table: Path, since_ns: int | None = None, until_ns: int | None = None
) -> list[StoredFile]:
    """The files that together hold each row of ``table`` exactly once, oldest first.

    With ``since_ns`` (inclusive) and ``until_ns`` (exclusive), files that cannot hold a row
    received in that time are left out. A hot segment that cannot be read is left out, too:
    maintenance will move it to the quarantine and count it.
    """
    for _ in range(_ATTEMPTS):
        hot = list_hot(table)
        manifest = manifests.load(table)
        files, complete = _packed(table, manifest, since_ns, until_ns)
        complete &= _add_hot(files, table, hot, manifest, since_ns, until_ns)
        if complete or manifests.load(table) is manifest:
            break
    files.sort(key=lambda f: f.min_ns)
    return files


def _overlaps(min_ns: int, max_ns: int, since_ns: int | None, until_ns: int | None) -> bool:
    return (since_ns is None or max_ns >= since_ns) and (until_ns is None or min_ns < until_ns)


_named: dict[str, tuple[Manifest, list[tuple[str, str, StoredFile]]]] = {}


def _named_by(table: Path, manifest: Manifest) -> list[tuple[str, str, StoredFile]]:
    """The packed files of ``manifest`` with the directory and the name of each.

    Kept until the manifest changes: building ten thousand paths takes a fifth of a second.
    """
    known = _named.get(str(table))
    if known is not None and known[0] is manifest:
        return known[1]
    found = []
    for r in manifest.ranges:
        for p in r.parts:
            name = range_name(r, p.part)
            folder, _, base = name.relative.partition("/")
            path = table / folder / base
            file = StoredFile(path, name, p.rows, p.size, p.min_ns, p.max_ns)
            found.append((folder, base, file))
    _named[str(table)] = manifest, found
    return found


def _packed(
    table: Path, manifest: Manifest, since_ns: int | None, until_ns: int | None
) -> tuple[list[StoredFile], bool]:
    """Packed files of the manifest that exist, and whether all of them do."""
    files: list[StoredFile] = []
    complete = True
    present: dict[str, set[str]] = {}
    for folder, base, file in _named_by(table, manifest):
        if not _overlaps(file.min_ns, file.max_ns, since_ns, until_ns):
            continue
        if folder not in present:
            present[folder] = _names(table / folder)
        if base in present[folder]:
            files.append(file)
        else:
            complete = False
    return files, complete


def _add_hot(
    files: list[StoredFile],
    table: Path,
    hot: Iterable[SegmentName],
    manifest: Manifest,
    since_ns: int | None,
    until_ns: int | None,
) -> bool:
    """Add hot segments that no range supersedes; False when one has vanished meanwhile."""
    complete = True
    for name in hot:
        if manifest.find(name.node, name.shard, name.first, name.last) is not None:
            continue
        path = table / name.relative
        try:
            rows, size, min_ns, max_ns = _hot_figures(str(path))
        except FileNotFoundError:
            complete = False
            continue
        except (pa.ArrowInvalid, ValueError, OSError):
            continue
        if _overlaps(min_ns, max_ns, since_ns, until_ns):
            files.append(StoredFile(path, name, rows, size, min_ns, max_ns))
    return complete


def visible(table: Path, since_ns: int | None = None, until_ns: int | None = None) -> list[Path]:
    """The paths of :func:`snapshot`: ``.arrow`` (hot) and ``.parquet`` (packed) files."""
    return [f.path for f in snapshot(table, since_ns, until_ns)]


def read_visible(
    table: Path,
    read: Callable[[list[Path]], T],
    since_ns: int | None = None,
    until_ns: int | None = None,
    attempts: int = 5,
) -> T:
    """``read(paths)``, again with a fresh list when a file was removed under its hands.

    Superseded files stay for a grace period, so this happens to slow readers, and to those that
    read what retention removes.
    """
    while True:
        attempts -= 1
        paths = visible(table, since_ns, until_ns)
        try:
            return read(paths)
        except Exception:
            # whatever the reader's library makes of a missing file; any other error is the caller's
            if attempts <= 0 or all(p.exists() for p in paths):
                raise


def last_number(store: Path, node: str, shard: int) -> int:
    """The largest segment number of a node and shard in any table, hot or packed; -1: none."""
    numbers = [-1]
    for table in TABLES:
        for name in list_hot(store / table):
            if (name.node, name.shard) == (node, shard):
                numbers.append(name.last)
        numbers += [r.last for r in manifests.load(store / table).of_shard(node, shard)]
    return max(numbers)


def range_name(r: Range, part: str) -> SegmentName:
    """The name of the file of range ``r`` for the hour or day ``part``."""
    return SegmentName.packed(r.node, r.shard, r.first, r.last, part)
