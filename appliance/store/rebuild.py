"""A manifest again, from the files, when the disk has damaged it.

The name of a packed file says which segments it is of, and its metadata which parts its range had.
Where the files of a range and what it was made from are both there, as they are for a minute after
each commit, the range is taken if it is whole: committed or not, it has the same rows.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from appliance.store import manifest as manifests
from appliance.store.durable import locked, replace_file, store_lock
from appliance.store.files import SegmentName, Summary, list_hot, list_packed
from appliance.store.manifest import MANIFEST, Manifest, ManifestError, Part, Range
from appliance.store.retired import QUARANTINE, read_summary

log = logging.getLogger(__name__)


def repair(table: Path) -> bool:
    """Rebuild the manifest of ``table`` if it cannot be read; whether that was necessary.

    The damaged one is kept in the quarantine. The caller is the only one who packs.
    """
    try:
        manifests.load(table)
        return False
    except ManifestError as error:
        log.error("rebuilding a manifest: %s", error)
    with locked(store_lock(table.parent)):
        kept = table.parent / QUARANTINE / table.name / f"{MANIFEST}.{time.time_ns()}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes((table / MANIFEST).read_bytes())
        replace_file(table / MANIFEST, manifests.encode(from_files(table)))
    return True


def from_files(table: Path) -> Manifest:
    """The manifest that the files in ``table`` tell of."""
    ranges: dict[tuple[str, int, int, int], dict[str, tuple[Part, Summary]]] = {}
    for name in list_packed(table):
        path = table / name.relative
        try:
            summary, size = read_summary(path), path.stat().st_size
        except (ValueError, OSError) as error:
            log.error("not taken into the manifest: %s: %s", path, error)
            continue
        assert name.hour is not None
        part = Part(name.hour, summary.rows, size, summary.min_ns, summary.max_ns)
        key = (name.node, name.shard, name.first, name.last)
        ranges.setdefault(key, {})[name.hour] = (part, summary)
    hot = list_hot(table)
    taken: list[Range] = []
    # the widest first: it is what the narrower ones were merged into
    for key in sorted(ranges, key=lambda k: (k[2] - k[3], k)):
        parts = ranges[key]
        whole = all(set(s.parts) <= set(parts) for _, s in parts.values())
        if any(_inside(key, (r.node, r.shard, r.first, r.last)) for r in taken):
            continue
        sources = any(k != key and _inside(k, key) for k in ranges)
        sources |= any(_inside(_key(n), key) for n in hot)
        # without its sources it was committed, and retention has taken the missing parts
        if whole or not sources:
            # as if committed now: readers of what it supersedes get their grace
            ordered = tuple(parts[p][0] for p in sorted(parts))
            taken.append(Range(*key, committed_ns=time.time_ns(), parts=ordered))
    return Manifest().with_changes((), taken)


def _key(name: SegmentName) -> tuple[str, int, int, int]:
    return name.node, name.shard, name.first, name.last


def _inside(a: tuple[str, int, int, int], b: tuple[str, int, int, int]) -> bool:
    """Whether range ``a`` lies within ``b``."""
    return a[:2] == b[:2] and b[2] <= a[2] and a[3] <= b[3]
