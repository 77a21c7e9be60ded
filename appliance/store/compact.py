"""Compaction: closed runs of hot segments become packed files, small packed files larger ones.

The work is cut into jobs that fit into memory (:data:`MAX_ROWS`, :data:`MAX_BYTES`); each job
writes the Parquet files of one range and commits it by itself. Files that a range supersedes stay
until they are swept (see sweep.py).
"""

from __future__ import annotations

import errno
import logging
import os
from bisect import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from appliance.store import manifest as manifests
from appliance.store.durable import locked, store_lock, sync_directory, temporary_of
from appliance.store.files import (
    METADATA_KEY,
    SegmentName,
    StoredFile,
    Summary,
    list_hot,
    range_name,
    snapshot,
)
from appliance.store.layout import (
    RECORDS,
    ROW_GROUP,
    Layout,
    arrange,
    row_bytes,
    unified,
    writer_options,
)
from appliance.store.manifest import Part, Range
from appliance.store.retired import Reason, retire

log = logging.getLogger(__name__)

MAX_ROWS = 1 << 20
"""Rows of a job; only a single segment can have more."""
MAX_BYTES = 256 << 20
"""Bytes of a job's rows in memory, estimated; the peak is about three times that."""
FAN_IN = 8
"""Neighbouring ranges that are merged into one, at least."""

_READ = pa.ipc.IpcReadOptions(use_threads=False)


class UnreadableError(Exception):
    """A segment that is torn or damaged."""

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path


class VanishedError(Exception):
    """An input was removed (the disk was full, or it expired) while it was being packed."""


@dataclass(frozen=True, slots=True)
class Job:
    """Files of one node and shard that become one range."""

    files: tuple[StoredFile, ...]
    replaces: tuple[Range, ...] = ()
    """The ranges that ``files`` belong to; empty for hot segments."""

    @property
    def rows(self) -> int:
        """Rows to be packed."""
        return sum(f.rows for f in self.files)


Observer = Callable[[pa.Table], None]
"""Is shown the rows of each part of a range that is being written."""


def hot_jobs(table: Path, min_rows: int = MAX_ROWS, before_ns: int | None = None) -> list[Job]:
    """Jobs for the hot segments of ``table`` that are worth it.

    That is a run to which no more can be added, one of at least ``min_rows`` rows, or one that
    begins before ``before_ns``. The newest segment of each shard is left alone: a collector that
    recovers may want to look at it.
    """
    manifest = manifests.load(table)
    shards: dict[tuple[str, int], list[StoredFile]] = {}
    readable: set[SegmentName] = set()
    for file in snapshot(table):
        if file.name.hour is None:
            shards.setdefault((file.name.node, file.name.shard), []).append(file)
            readable.add(file.name)
    unread = [n for n in list_hot(table) if n not in readable]
    jobs: list[Job] = []
    for (node, shard), files in shards.items():
        files.sort(key=lambda f: f.name)
        barriers = [n.first for n in unread if (n.node, n.shard) == (node, shard)]
        barriers += [r.first for r in manifest.of_shard(node, shard)]
        runs = _runs(files[:-1], sorted(barriers))
        for run in runs:
            full = run is not runs[-1] or sum(f.rows for f in run) >= min_rows
            if full or (before_ns is not None and min(f.min_ns for f in run) < before_ns):
                jobs.append(Job(tuple(run)))
    return jobs


def _runs(files: list[StoredFile], barriers: list[int]) -> list[list[StoredFile]]:
    """Cut ``files`` into runs that fit into memory and have one type a column.

    ``barriers``: sorted numbers that no run may span, because its range would cover them unread.
    """
    runs: list[list[StoredFile]] = []
    schema = pa.schema([])
    rows = 0
    for file in files:
        try:
            with pa.memory_map(str(file.path)) as source:
                mine = pa.ipc.open_file(source).schema.remove_metadata()
        except (pa.ArrowException, OSError):
            barriers = sorted([*barriers, file.name.first])
            continue
        wider = unified([schema, mine])
        rows += file.rows
        if (
            not runs
            or wider is None
            or rows > MAX_ROWS
            or rows * row_bytes(wider) > MAX_BYTES
            or bisect(barriers, runs[-1][-1].name.last) != bisect(barriers, file.name.first)
        ):
            runs.append([file])
            schema, rows = mine, file.rows
        else:
            runs[-1].append(file)
            schema = wider
    return runs


def merge_jobs(table: Path, apart: Iterable[SegmentName] = ()) -> list[Job]:
    """Jobs that merge runs of small ranges into large ones.

    A range is only merged with ones that together are at least as large, so that a row is written
    again O(log(rows of a job)) times. No merged range will cover a hot segment, or one of
    ``apart``.
    """
    manifest = manifests.load(table)
    files: dict[tuple[str, int, int], list[StoredFile]] = {}
    others = list(apart)
    for file in snapshot(table):
        name = file.name
        if name.hour is None:
            others.append(name)
        else:
            files.setdefault((name.node, name.shard, name.first), []).append(file)
    jobs: list[Job] = []
    for node, shard in manifest.shards():
        barriers = [n for n in others if (n.node, n.shard) == (node, shard)]
        run: list[Range] = []
        for r in manifest.of_shard(node, shard):
            wider = run[0].first if run else r.first
            if sum(x.rows for x in run) + r.rows > MAX_ROWS or any(
                wider <= n.last and n.first <= r.last for n in barriers
            ):
                _merge(run, files, jobs)
                run = []
                if any(r.first <= n.last and n.first <= r.last for n in barriers):
                    continue
            run.append(r)
        _merge(run, files, jobs)
    return jobs


def _merge(
    run: list[Range], files: dict[tuple[str, int, int], list[StoredFile]], jobs: list[Job]
) -> None:
    """Add the job that merges ``run``, less its leading ranges that outweigh the rest."""
    while len(run) >= FAN_IN:
        total = sum(r.rows for r in run)
        if 2 * max(r.rows for r in run) <= total:
            mine = [f for r in run for f in files.get((r.node, r.shard, r.first), [])]
            if mine:
                jobs.append(Job(tuple(mine), tuple(run)))
            return
        largest = max(range(len(run)), key=lambda i: run[i].rows)
        run = run[largest + 1 :]


def is_damage(error: Exception) -> bool:
    """Whether ``error`` is about the content of a file, and not a want of memory or descriptors."""
    if isinstance(error, MemoryError):
        return False
    # Arrow's own complaints about content have no errno; EINVAL is what mapping an empty file gives
    return not isinstance(error, OSError) or error.errno in (None, errno.EIO, errno.EINVAL)


def read(file: StoredFile) -> list[pa.RecordBatch]:
    """The rows of ``file``; raises :class:`UnreadableError`."""
    path = file.path
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
                batches = list(parquet.iter_batches(ROW_GROUP, use_threads=False))
        else:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source, options=_READ)
                batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate()
    except FileNotFoundError as error:
        raise VanishedError(str(path)) from error
    except (pa.ArrowException, ValueError, OSError) as error:
        if not is_damage(error):
            raise
        raise UnreadableError(path, error) from error
    rows = sum(b.num_rows for b in batches)
    if rows != file.rows:
        raise UnreadableError(path, f"{rows} rows, should have {file.rows}")
    return batches


def write_range(
    table: Path,
    layout: Layout,
    key: tuple[str, int, int, int],
    batches: list[pa.RecordBatch],
    now_ns: int,
    observe: Observer | None = None,
) -> Range:
    """Write the files of range ``key`` (node, shard, first, last): durable, not yet visible.

    ``batches`` is emptied. When it fails (``ENOSPC``), nothing is left behind.
    """
    parts: list[Part] = []
    written: list[Path] = []
    try:
        for piece in arrange(layout, batches):
            path = table / SegmentName.packed(*key, piece.part).relative
            written.append(path)
            if not path.parent.exists():
                path.parent.mkdir(parents=True)
                sync_directory(table)
            summary = Summary(
                len(piece.rows), piece.min_ns, piece.max_ns, piece.exporters, piece.parts
            )
            size = _write(path, piece.rows, summary)
            parts.append(Part(piece.part, summary.rows, size, piece.min_ns, piece.max_ns))
            if observe is not None:
                observe(piece.rows)
    except BaseException:
        _discard(written)
        raise
    return Range(*key, committed_ns=now_ns, parts=tuple(parts))


def _write(path: Path, rows: pa.Table, summary: Summary) -> int:
    temporary = temporary_of(path)
    with temporary.open("wb") as file:
        with pq.ParquetWriter(file, rows.schema, **writer_options(rows.schema)) as writer:
            writer.add_key_value_metadata({METADATA_KEY.decode(): summary.to_json().decode()})
            writer.write_table(rows, row_group_size=ROW_GROUP)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    temporary.rename(path)
    sync_directory(path.parent)
    return size


def _discard(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
        temporary_of(path).unlink(missing_ok=True)


def run(
    table: Path, job: Job, now_ns: int, layout: Layout = RECORDS, observe: Observer | None = None
) -> Range | None:
    """Do ``job`` and commit it; None when all of its files turned out to be damaged.

    Damaged files go to the quarantine, the others are packed. Raises :class:`VanishedError` when
    an input was removed meanwhile: the next plan is without it.
    """
    store = table.parent
    batches: list[pa.RecordBatch] = []
    damaged: list[Path] = []
    for file in job.files:
        try:
            batches += read(file)
        except UnreadableError as error:
            log.error("quarantined: %s", error)
            damaged.append(file.path)
    if damaged:
        with locked(store_lock(store)):
            retire(store, Reason.CORRUPT, damaged)
    good = [f for f in job.files if f.path not in damaged]
    if not good:
        return None
    if job.replaces:
        first, last = job.replaces[0].first, job.replaces[-1].last
    else:
        first, last = good[0].name.first, good[-1].name.last
    name = good[0].name
    made = write_range(
        table, layout, (name.node, name.shard, first, last), batches, now_ns, observe
    )
    with locked(store_lock(store)):
        vanished = [f.path for f in good if not f.path.exists()]
        if not vanished:
            manifests.commit(table, job.replaces, [made])
    if vanished:
        _discard(table / range_name(made, p.part).relative for p in made.parts)
        raise VanishedError(f"{vanished[0]} and {len(vanished) - 1} others")
    return made
