"""Tidying a table: files that nobody sees any more, and entries of the manifest without a file.

Superseded files stay for a grace period, so that readers who have listed them can still open them.
What a crash left behind (temporary files, Parquet files that were never committed) goes at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from appliance.store import manifest as manifests
from appliance.store.compact import is_damage
from appliance.store.durable import TEMPORARY, locked, store_lock
from appliance.store.files import list_hot, list_packed, list_parts, range_name
from appliance.store.manifest import Manifest, Range
from appliance.store.retired import Reason, read_summary, retire

GRACE_NS = 60 * 10**9


def superseded(table: Path, manifest: Manifest) -> Iterator[tuple[Path, Range]]:
    """Files of which a committed range has the rows, and that range."""
    named = _named(table, manifest)
    for name in [*list_hot(table), *list_packed(table)]:
        path = table / name.relative
        r = manifest.find(name.node, name.shard, name.first, name.last)
        if r is not None and path not in named:
            yield path, r


def _named(table: Path, manifest: Manifest) -> set[Path]:
    return {table / range_name(r, p.part).relative for r in manifest.ranges for p in r.parts}


def sweep(
    table: Path,
    now_ns: int,
    grace_ns: int = GRACE_NS,
    needed: Callable[[Range], bool] = lambda r: False,
) -> int:
    """Tidy ``table``; returns the bytes freed. The caller is the only one who packs.

    ``needed``: whether the entry of a range must stay though it has no file any more.
    """
    manifest = manifests.load(table)
    freed = 0
    for path, r in list(superseded(table, manifest)):
        # a clock that was set back must not keep files for ever
        if not 0 <= now_ns - r.committed_ns < grace_ns:
            freed += _unlink(path)
    named = _named(table, manifest)
    for name in list_packed(table):
        path = table / name.relative
        if path not in named and (
            manifest.find(name.node, name.shard, name.first, name.last) is None
        ):
            freed += _unlink(path)
    for folder in list_parts(table):
        for path in (table / folder).glob(TEMPORARY + "*"):
            freed += _unlink(path)
        with contextlib.suppress(OSError):
            (table / folder).rmdir()  # if it is empty
    _forget(table, now_ns, grace_ns, needed)
    return freed


def _unlink(path: Path) -> int:
    try:
        size = path.stat().st_blocks * 512
        path.unlink()
    except FileNotFoundError:
        return 0
    return size


def _forget(table: Path, now_ns: int, grace_ns: int, needed: Callable[[Range], bool]) -> None:
    """Take parts off the manifest whose files retention has removed, and ranges without any.

    The last range of a shard stays: it says which numbers were used.
    """
    with locked(store_lock(table.parent)):
        manifest = manifests.load(table)
        present = {table / name.relative for name in list_packed(table)}
        remove, add = [], []
        for node, shard in manifest.shards():
            ranges = manifest.of_shard(node, shard)
            for r in ranges:
                parts = tuple(
                    p for p in r.parts if table / range_name(r, p.part).relative in present
                )
                settled = not 0 <= now_ns - r.committed_ns < grace_ns
                gone = not parts and r is not ranges[-1] and settled and not needed(r)
                if gone or len(parts) != len(r.parts):
                    remove.append(r)
                    if not gone:
                        add.append(replace(r, parts=parts))
        if remove:
            manifests.commit(table, remove, add)


def quarantine_torn(table: Path) -> int:
    """Move hot segments that cannot be opened to the quarantine, and count them; returns how many.

    Damage further inside is found when a segment is packed.
    """
    manifest = manifests.load(table)
    torn = []
    for name in list_hot(table):
        if manifest.find(name.node, name.shard, name.first, name.last) is not None:
            continue
        path = table / name.relative
        try:
            read_summary(path)
        except FileNotFoundError:
            continue
        except (ValueError, OSError, pa.ArrowException) as error:
            if is_damage(error):
                torn.append(path)
    if torn:
        with locked(store_lock(table.parent)):
            retire(table.parent, Reason.CORRUPT, torn)
    return len(torn)
