"""Keeping the store in order: one low-priority process a node, every half minute.

A pass finishes what a crash left, enforces retention, packs and merges, rolls up, and writes what
it found to ``store/maintenance.json`` for the API. Every step is safe to be killed in.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from appliance.config_model import Config
from appliance.store import compact, retention, retired, rollup
from appliance.store import manifest as manifests
from appliance.store.durable import locked, replace_file, store_lock
from appliance.store.files import TABLES, StoredFile, list_hot, snapshot
from appliance.store.layout import RECORDS, ROLLUP
from appliance.store.manifest import ManifestError
from appliance.store.rebuild import repair
from appliance.store.retention import Policy
from appliance.store.retired import QUARANTINE, Reason
from appliance.store.sweep import quarantine_torn, sweep

log = logging.getLogger(__name__)

LOCK = "maintenance.lock"
STATE = "maintenance.json"
INTERVAL_S = 30.0
HOT_FILES = 1000
HOT_BYTES = 1 << 30
"""Hot segments that make a pass begin early, and pack all of them."""
PACK_AFTER_NS = 120 * 10**9
"""Age at which hot segments are packed, however few; more of them are packed at once."""
FULL_BYTES = 1 << 20
"""Room made on a full disk besides that for the job that failed."""
ROLLUP_AGE_NS = 400 * 86400 * 10**9
"""Roll-ups are kept for 13 months, so that a month can be compared with that of last year."""
_DAY_NS = 86400 * 10**9


@dataclass(slots=True)
class TableFigures:
    """What one table has."""

    rows: int = 0
    files: int = 0
    bytes: int = 0
    hot_files: int = 0
    hot_bytes: int = 0
    oldest_ns: int | None = None
    newest_ns: int | None = None


@dataclass(slots=True)
class State:
    """The figures in ``store/maintenance.json``; totals count since the store was made."""

    updated_ns: int = 0
    """When the last pass ended."""
    seconds: float = 0.0
    """How long it took."""
    errors: list[str] = field(default_factory=list)
    """What went wrong in it; everything else was done."""
    tables: dict[str, TableFigures] = field(default_factory=dict)
    free_bytes: int = 0
    hours_until_full: float | None = None
    """At the growth of the last day, until the oldest records go for want of space."""
    passes: int = 0
    packed_rows: int = 0
    packed_bytes: int = 0
    """Bytes of Parquet that they became."""
    merged_rows: int = 0
    cpu_seconds: float = 0.0
    """Processor time spent on packing, rolling up and merging."""
    quarantined_files: int = 0
    retired: dict[str, dict[str, int]] = field(default_factory=dict)
    """Files, bytes and rows of all tables that left the store, by reason."""


def load_state(store: Path) -> State:
    """The state as of the last pass; a fresh one when there is none, or it is not readable."""
    try:
        document: dict[str, Any] = json.loads((store / STATE).read_bytes())
        tables = {n: TableFigures(**t) for n, t in document.pop("tables").items()}
        return State(**document, tables=tables)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return State()


def policy(config: Config) -> Policy:
    """The retention policy of a configuration."""
    age = int(config.store.retention_days * _DAY_NS)
    return Policy(
        max_age_ns=age,
        max_bytes=config.store.max_bytes,
        reserve_bytes=config.store.reserve_bytes,
        rollup_age_ns=max(age, ROLLUP_AGE_NS),
    )


class Pass:
    """One pass over the store."""

    def __init__(self, store: Path, policy: Policy, now_ns: int, state: State) -> None:
        self.store = store
        self.policy = policy
        self.now_ns = now_ns
        self.state = state
        self._job_bytes = 0

    def run(self) -> State:
        """Do all steps; one that fails does not keep the others from their turn."""
        started = time.monotonic()
        self.state.errors = []
        for table in (*TABLES, rollup.TABLE):
            self._step(f"{table}: repair", partial(self._repair, self.store / table))
        self._step("retention", partial(retention.apply, self.store, self.policy, self.now_ns))
        for table in TABLES:
            path = self.store / table
            if path.is_dir():
                self._step(f"{table}: quarantine", partial(quarantine_torn, path))
                self._step(f"{table}: sweep", partial(sweep, path, self.now_ns))
                self._step(f"{table}: pack", partial(self._pack, path))
        self._step("roll-up", partial(self._timed, self._catch_up))
        for table in (*TABLES, rollup.TABLE):
            path = self.store / table
            if path.is_dir():
                self._step(f"{table}: merge", partial(self._merge, path))
        if (self.store / rollup.TABLE).is_dir():
            self._step("roll-up: sweep", self._sweep_rollups)
        self._step("figures", self._figures)
        self.state.passes += 1
        self.state.seconds = round(time.monotonic() - started, 3)
        self.state.updated_ns = time.time_ns()
        self._step("state", self._save)
        return self.state

    def _step(self, name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except compact.VanishedError as error:
            log.info("%s: %s was removed meanwhile", name, error)
        except compact.UnreadableError as error:
            log.error("%s: quarantined: %s", name, error)
            self.state.errors.append(f"{name}: {error}")
            with locked(store_lock(self.store)):
                retired.retire(self.store, Reason.CORRUPT, [error.path])
        except (OSError, ValueError, pa.ArrowException, MemoryError) as error:
            log.exception("%s failed", name)
            self.state.errors.append(f"{name}: {error}")
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                # packing needs room for its result before it can free its input
                retention.make_room(self.store, self._job_bytes + FULL_BYTES)

    def _timed(self, work: Callable[[], object]) -> None:
        begin = time.process_time()
        try:
            work()
        finally:
            self.state.cpu_seconds = round(self.state.cpu_seconds + time.process_time() - begin, 6)

    def _repair(self, table: Path) -> None:
        if repair(table):
            self.state.errors.append(f"{table.name}: the manifest was damaged and has been rebuilt")

    def _pack(self, table: Path) -> None:
        wait_ns = 0 if is_crowded(self.store) else PACK_AFTER_NS
        for job in compact.hot_jobs(table, before_ns=self.now_ns - wait_ns):
            work = partial(self._pack_one, table, job)
            self._step(f"{table.name}: pack", partial(self._timed, work))

    def _pack_one(self, table: Path, job: compact.Job) -> None:
        rolled: list[pa.RecordBatch] = []

        def observe(rows: pa.Table) -> None:
            rolled.append(rollup.roll_up(rows))

        self._job_bytes = sum(f.size for f in job.files)
        flows = table.name == rollup.FLOWS
        made = compact.run(table, job, self.now_ns, RECORDS, observe if flows else None)
        if made is None:
            return
        self.state.packed_rows += made.rows
        self.state.packed_bytes += sum(p.size for p in made.parts)
        if flows:
            rollup.commit(self.store, made, rolled, self.now_ns)

    def _catch_up(self) -> None:
        rollup.catch_up(self.store, self.now_ns)

    def _merge(self, table: Path) -> None:
        rolled = table.name in (rollup.FLOWS, rollup.TABLE)
        apart = rollup.unrolled(self.store) if rolled else ()
        for job in compact.merge_jobs(table, apart):
            work = partial(self._merge_one, table, job)
            self._step(f"{table.name}: merge", partial(self._timed, work))

    def _merge_one(self, table: Path, job: compact.Job) -> None:
        self._job_bytes = sum(f.size for f in job.files)
        layout = ROLLUP if table.name == rollup.TABLE else RECORDS
        made = compact.run(table, job, self.now_ns, layout)
        self.state.merged_rows += made.rows if made else 0

    def _sweep_rollups(self) -> None:
        flows = manifests.load(self.store / rollup.FLOWS)
        sweep(
            self.store / rollup.TABLE,
            self.now_ns,
            needed=lambda r: flows.touches(r.node, r.shard, r.first, r.last),
        )

    def _figures(self) -> None:
        state = self.state
        state.tables = {}
        recent = 0
        oldest = self.now_ns
        for table in (*TABLES, rollup.TABLE):
            files = snapshot(self.store / table)
            state.tables[table] = _table_figures(files)
            for f in files:
                if f.max_ns >= self.now_ns - _DAY_NS:
                    recent += f.size
                    oldest = min(oldest, f.min_ns)
        state.free_bytes = retention.free_bytes(self.store)
        span_ns = self.now_ns - max(oldest, self.now_ns - _DAY_NS)
        state.hours_until_full = self._hours(recent, span_ns)
        ledger = retired.load(self.store)
        state.retired = {reason.value: {"files": 0, "bytes": 0, "rows": 0} for reason in Reason}
        for (_, reason), tally in ledger.tallies.items():
            for name, value in state.retired[reason.value].items():
                state.retired[reason.value][name] = value + int(getattr(tally, name))
        quarantine = self.store / QUARANTINE
        state.quarantined_files = sum(1 for p in quarantine.rglob("*") if p.is_file())

    def _hours(self, recent_bytes: int, span_ns: int) -> float | None:
        """Hours until the store has to drop records, growing by ``recent_bytes`` in ``span_ns``."""
        if recent_bytes <= 0 or span_ns < 60 * 10**9:
            return None
        room = self.state.free_bytes - self.policy.reserve_bytes
        if self.policy.max_bytes is not None:
            used = sum(self.state.tables[t].bytes for t in TABLES)
            room = min(room, self.policy.max_bytes - used)
        return round(max(room, 0) / recent_bytes * span_ns / 3600e9, 2)

    def _save(self) -> None:
        replace_file(self.store / STATE, json.dumps(asdict(self.state), indent=1).encode() + b"\n")


def _table_figures(files: list[StoredFile]) -> TableFigures:
    hot = [f for f in files if f.name.hour is None]
    return TableFigures(
        rows=sum(f.rows for f in files),
        files=len(files),
        bytes=sum(f.size for f in files),
        hot_files=len(hot),
        hot_bytes=sum(f.size for f in hot),
        oldest_ns=min((f.min_ns for f in files), default=None),
        newest_ns=max((f.max_ns for f in files), default=None),
    )


def run_once(config: Config, now_ns: int | None = None) -> State | None:
    """One pass over the store of ``config.data_dir``; None when another process is at it."""
    store = Path(config.data_dir) / "store"
    store.mkdir(parents=True, exist_ok=True)
    with locked(store / LOCK, wait=False) as mine:
        if not mine:
            return None
        now_ns = time.time_ns() if now_ns is None else now_ns
        return Pass(store, policy(config), now_ns, load_state(store)).run()


def is_crowded(store: Path) -> bool:
    """Whether more hot segments wait to be packed than is good for queries and for the disk."""
    files = size = 0
    for table in (store / name for name in TABLES):
        try:
            manifest = manifests.load(table)
        except ManifestError:
            continue
        for name in list_hot(table):
            if manifest.find(name.node, name.shard, name.first, name.last) is None:
                files += 1
                with contextlib.suppress(OSError):
                    size += (table / name.relative).stat().st_size
    return files > HOT_FILES or size > HOT_BYTES


def run(config: Config, stop: Callable[[], bool] = lambda: False) -> None:
    """Pass after pass until ``stop()``, or for ever; being killed at any time is fine."""
    store = Path(config.data_dir) / "store"
    # one thread is enough for a process that must not get in the collector's way
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    due = time.monotonic()
    while not stop():
        if time.monotonic() >= due or is_crowded(store):
            try:
                run_once(config)
            except Exception:
                log.exception("a pass of maintenance failed")
            due = time.monotonic() + INTERVAL_S
        time.sleep(2.0)
