"""What the store no longer has, and why: ``store/retired.json``, exact across crashes.

A file is counted exactly once. First its rows are added to the ledger together with its name, in
one replacement of the ledger; then it goes; then its name is taken off. Whoever finds names in the
ledger (:func:`finish`) finishes that work without counting again.

The ledger must also be written when the disk is full, which is just when it is needed: the
*ballast* is a file whose only purpose is to make room for that.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from appliance.store.durable import replace_file, sync_directory
from appliance.store.files import Summary

log = logging.getLogger(__name__)

RETIRED = "retired.json"
QUARANTINE = "quarantine"
BALLAST = "ballast"
BALLAST_BYTES = 1 << 20
_VERSION = 1


class Reason(StrEnum):
    """Why rows left the store."""

    EXPIRED = "expired"
    """Older than retention keeps, or beyond its bytes."""
    DISK_FULL = "disk_full"
    """The oldest made room on a full disk."""
    CORRUPT = "corrupt"
    """The file could not be read; it is in the quarantine."""


@dataclass(slots=True)
class Tally:
    """What left one table for one reason."""

    files: int = 0
    bytes: int = 0
    rows: int = 0
    exporters: dict[str, int] = field(default_factory=dict)
    """Rows of each exporter, by address text; a torn file cannot tell."""


@dataclass(slots=True)
class Retired:
    """The ledger."""

    tallies: dict[tuple[str, Reason], Tally] = field(default_factory=dict)
    """By table and reason."""
    pending: list[tuple[str, bool]] = field(default_factory=list)
    """Files that are counted and may still be there: path inside the store, and whether to keep it
    in the quarantine."""

    def tally(self, table: str, reason: Reason) -> Tally:
        """The tally of ``table`` and ``reason``; made when there is none."""
        return self.tallies.setdefault((table, reason), Tally())

    def rows(self, reason: Reason, table: str = "flows") -> dict[str, int]:
        """Rows of ``table`` that left for ``reason``, by exporter."""
        return dict(self.tally(table, reason).exporters)

    def encode(self) -> bytes:
        """As JSON."""
        tables: dict[str, dict[str, Any]] = {}
        for (table, reason), t in sorted(self.tallies.items()):
            tables.setdefault(table, {})[reason.value] = {
                "files": t.files,
                "bytes": t.bytes,
                "rows": t.rows,
                "exporters": t.exporters,
            }
        document = {"version": _VERSION, "tables": tables, "pending": self.pending}
        return json.dumps(document, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Retired:
        """From JSON; ValueError when it is not a ledger."""
        try:
            document = json.loads(data)
            if document["version"] != _VERSION:
                raise ValueError(f"version {document['version']}")
            return cls(
                {
                    (table, Reason(reason)): Tally(**tally)
                    for table, reasons in document["tables"].items()
                    for reason, tally in reasons.items()
                },
                [(str(path), bool(keep)) for path, keep in document["pending"]],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a ledger of retired rows: {error!r}") from error


def load(store: Path) -> Retired:
    """The ledger of ``store``; empty when there is none. Reading needs no lock."""
    path = store / RETIRED
    try:
        return Retired.decode(path.read_bytes())
    except FileNotFoundError:
        return Retired()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _load_or_begin(store: Path) -> Retired:
    """The ledger; a new one, the old kept in the quarantine, when the disk has damaged it."""
    try:
        return load(store)
    except ValueError as error:
        log.error("beginning a new ledger of retired rows: %s", error)
    kept = store / QUARANTINE / f"{RETIRED}.{time.time_ns()}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    (store / RETIRED).rename(kept)
    return Retired()


def _save(store: Path, ledger: Retired) -> None:
    data = ledger.encode()
    try:
        replace_file(store / RETIRED, data)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        (store / BALLAST).unlink(missing_ok=True)
        replace_file(store / RETIRED, data)


def keep_ballast(store: Path) -> None:
    """Make the ballast, large enough for the ledger, where it is missing; no error if it fails."""
    path = store / BALLAST
    try:
        ledger = (store / RETIRED).stat().st_size
    except OSError:
        ledger = 0
    wanted = max(BALLAST_BYTES, 2 * ledger)
    try:
        if path.exists() and path.stat().st_size >= wanted:
            return
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, wanted)
    except OSError:
        path.unlink(missing_ok=True)


def read_summary(path: Path) -> Summary:
    """The metadata of a hot or packed segment; ValueError or OSError when it has none."""
    try:
        if path.suffix == ".parquet":
            return Summary.of(pq.read_metadata(path).metadata)
        with pa.memory_map(str(path)) as source:
            return Summary.of(pa.ipc.open_file(source).schema.metadata)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def retire(store: Path, reason: Reason, paths: Iterable[Path]) -> int:
    """Count the rows of segments under ``reason`` and remove the files; returns bytes freed.

    Corrupt ones go to the quarantine instead. The caller holds the store's lock.
    """
    ledger = finish(store)
    freed = 0
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        relative = path.relative_to(store)
        tally = ledger.tally(relative.parts[0], reason)
        tally.files += 1
        tally.bytes += status.st_size
        try:
            summary = read_summary(path)
        except (ValueError, OSError):
            pass  # a torn file: which rows it had, nobody knows
        else:
            tally.rows += summary.rows
            for exporter, rows in summary.exporters.items():
                tally.exporters[exporter] = tally.exporters.get(exporter, 0) + rows
        ledger.pending.append((str(relative), reason is Reason.CORRUPT))
        freed += status.st_blocks * 512
    if ledger.pending:
        _save(store, ledger)
        finish(store, ledger)
    return freed


def finish(store: Path, ledger: Retired | None = None) -> Retired:
    """Remove the files that are counted already; returns the ledger. The caller holds the lock."""
    ledger = _load_or_begin(store) if ledger is None else ledger
    if not ledger.pending:
        return ledger
    folders = set()
    for relative, keep in ledger.pending:
        path = store / relative
        folders.add(path.parent)
        if keep:
            target = store / QUARANTINE / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                path.rename(target)
        else:
            path.unlink(missing_ok=True)
    for folder in folders:
        if folder.exists():
            sync_directory(folder)
    ledger.pending.clear()
    _save(store, ledger)
    return ledger
