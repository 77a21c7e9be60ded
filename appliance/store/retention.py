"""Which segments go, and when: by age, by bytes, and for a full disk, oldest first.

Rows that go are counted by exporter in the ledger of retired.py. Removing a file that somebody
reads is safe: its blocks live until it is closed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from appliance.store import manifest as manifests
from appliance.store import retired
from appliance.store.durable import locked, store_lock
from appliance.store.files import TABLES, StoredFile, snapshot
from appliance.store.manifest import ManifestError
from appliance.store.retired import Reason
from appliance.store.rollup import TABLE as ROLLUP
from appliance.store.sweep import superseded

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the store may keep."""

    max_age_ns: int
    """Age at which records expire, by ``received_ns`` of the newest row of a file."""
    max_bytes: int | None
    """Bytes of records over all tables; None: as much as the disk has."""
    reserve_bytes: int
    """Bytes to keep free on the file system."""
    rollup_age_ns: int
    """Age at which roll-ups expire."""


@dataclass(frozen=True, slots=True)
class Freed:
    """What a pass of retention removed, in bytes on disk."""

    expired: int = 0
    disk_full: int = 0


def oldest_first(store: Path) -> list[StoredFile]:
    """The visible files of all tables of records, those with the oldest newest row first.

    A table whose manifest is damaged is left out until maintenance has rebuilt that.
    """
    files = []
    for table in TABLES:
        try:
            files += snapshot(store / table)
        except ManifestError:
            continue
    files.sort(key=lambda f: (f.max_ns, f.name))
    return files


def free_bytes(store: Path) -> int:
    """Bytes that an ordinary process can still write to the store's file system."""
    status = os.statvfs(store)
    return status.f_bavail * status.f_frsize


def make_room(store: Path, bytes_needed: int) -> int:
    """Free at least ``bytes_needed`` by removing what is oldest; returns the bytes freed.

    Superseded files go first, then records, counted as ``disk_full``. The newest hot segment of
    each shard stays. Fewer bytes than asked for, down to 0, mean that there is nothing left. Safe
    to call from any process of the node at any time.
    """
    with locked(store_lock(store)):
        freed = 0
        for table in (*TABLES, ROLLUP):
            try:
                spare = list(superseded(store / table, manifests.load(store / table)))
            except ManifestError:
                continue
            for path, _ in spare:
                if freed < bytes_needed:
                    freed += _remove(path)
        if freed < bytes_needed:
            freed += _retire(
                store, Reason.DISK_FULL, _until(oldest_first(store), bytes_needed - freed)
            )
        retired.keep_ballast(store)
    return freed


def _remove(path: Path) -> int:
    try:
        size = path.stat().st_blocks * 512
        path.unlink()
    except FileNotFoundError:
        return 0
    return size


def _until(files: Iterable[StoredFile], wanted: int) -> list[Path]:
    """The first of ``files`` that free ``wanted`` bytes, without the newest hot of each shard."""
    files = list(files)
    newest: dict[tuple[Path, str, int], StoredFile] = {}
    for f in files:
        if f.name.hour is None:
            key = (f.path.parent, f.name.node, f.name.shard)
            if key not in newest or newest[key].name < f.name:
                newest[key] = f
    kept = {f.path for f in newest.values()}
    chosen: list[Path] = []
    for f in files:
        if wanted <= 0:
            break
        if f.path not in kept:
            chosen.append(f.path)
            wanted -= f.size
    return chosen


def _retire(store: Path, reason: Reason, paths: list[Path]) -> int:
    if not paths:
        return 0
    freed = retired.retire(store, reason, paths)
    log.warning("%s: removed %d oldest files, %d bytes", reason.value, len(paths), freed)
    return freed


def apply(store: Path, policy: Policy, now_ns: int) -> Freed:
    """Enforce ``policy`` once."""
    with locked(store_lock(store)):
        retired.finish(store)
        retired.keep_ballast(store)
        files = oldest_first(store)
        limit = now_ns - policy.max_age_ns
        old = [f for f in files if f.max_ns < limit]
        rest = files[len(old) :]
        chosen = [f.path for f in old]
        if policy.max_bytes is not None:
            chosen += _until(rest, sum(f.size for f in rest) - policy.max_bytes)
        expired = _retire(store, Reason.EXPIRED, chosen)
        for f in snapshot(store / ROLLUP, until_ns=now_ns - policy.rollup_age_ns):
            if f.max_ns < now_ns - policy.rollup_age_ns:
                expired += _remove(f.path)
    lacking = policy.reserve_bytes - free_bytes(store)
    return Freed(expired, make_room(store, lacking) if lacking > 0 else 0)
