"""One shard: its journal, decoder, ledger and segments, and the order in which they become durable.

    step     journal ──► decode ──► ledger, rows in memory
    flush    rows ──► staged segments ──► checkpoint (the commit) ──► published ──► journal trimmed

A process may die between any two of these. What the checkpoint covers is stored and counted once;
what it does not cover is in the journal, and is decoded again with the state of that checkpoint.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from appliance.batch import DatagramBatch
from appliance.config import Config
from appliance.decode import Decoded, Decoder
from appliance.decode.elements import Registry
from appliance.health import canary
from appliance.health.recognise import Recogniser
from appliance.journal.journal import Journal
from appliance.ledger.ledger import Ledger
from appliance.receive.receiver import StreamIntake
from appliance.store import checkpoint as checkpoints
from appliance.store import segment
from appliance.store.checkpoint import CHECKPOINT, Checkpoint
from appliance.store.durable import sync_directory
from appliance.store.files import SegmentName, last_number
from appliance.store.retention import make_room
from appliance.store.state_files import StateFiles

log = logging.getLogger(__name__)

CHUNK = 4096
"""Datagrams decoded at once: enough to share the cost of a batch, few enough for the cache."""
MAX_ROWS = 1_000_000
"""Rows in memory that force a flush before its time."""
PLAIN_ROWS = 5_000
"""Rows of a flush from which on segments are written without compression."""
MAX_POISON = 100
"""Datagrams that broke the decoder which are kept, for whoever mends it."""
ROOM_BYTES = 64 << 20
"""Bytes of stored flows that are given up at first for a flush that finds the disk full."""
FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_DATAGRAMS = DatagramBatch.from_payloads([])


class Shard:
    """See the module. Used by one thread; only its journal is shared, with the receiver."""

    def __init__(self, config: Config, number: int, registry: Registry) -> None:
        self.config = config
        self.registry = registry
        self.number = number
        self.node = config.node.name
        self.directory = Path(config.data_dir) / "shards" / str(number)
        self.store = Path(config.data_dir) / "store"
        self.journal = Journal(
            self.directory / "journal", config.journal.max_bytes // config.receive.shards
        )
        self.release_spares = self.journal.release
        """Frees what is kept only to be quick; the worker says of all its shards."""
        self.tell_flush: Callable[[int], None] = lambda code: None
        """Hears after each flush why nothing can be stored (errno), or 0."""
        key = canary.read_key(Path(config.data_dir))
        self._recogniser = Recogniser(key) if key else None
        self.decoder = Decoder.of(config, registry)
        self.files = StateFiles(self.directory)
        self.ledger = Ledger()
        self.checkpoint = Checkpoint()
        self.streams: list[StreamIntake] = []
        self._rows: dict[str, list[pa.RecordBatch]] = {"flows": [], "counters": [], "options": []}
        self._row_count = 0
        """Flow records in memory."""
        self._memory_rows = 0
        """Rows of all tables in memory."""
        self._flows_of: Counter[int] = Counter()
        """Flow records in memory, by exporter number."""
        self._flushed_at = time.monotonic()
        self._flush_took = 0.0
        self._unpublished: list[Path] | None = None
        """Segments that the last checkpoint covers and that are not published yet; None: all is."""
        self._synced = True
        """Whether the last checkpoint outlives a crash of the machine."""
        self._retry_at = 0.0
        self._lag_ns = 0
        """Largest age of a datagram at its decoding, since the last report."""
        self._sessions_ended = False
        """Whether any has since the last checkpoint."""
        self._recovered: int | None = None
        """End of what another process has received, until it is decoded."""
        self._lock = self._own()
        for table in self._rows:
            (self.store / table).mkdir(parents=True, exist_ok=True)

    def _own(self) -> int:
        """Wait until no other process has this shard: a killed one may take a moment to be gone."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock

    def recover(self, now_ns: int) -> None:
        """Take up where the process before stopped, however it stopped.

        Without its last checkpoint, the one before and the segments tell where that was. If the
        journal still has what lies between, it is decoded again, without storing it again.
        """
        whole = checkpoints.whole(self.directory)
        point = self._load(whole, now_ns)
        self.checkpoint = point
        newest = whole[0][1] if whole else point
        committed = [self.store / name for name in newest.staged]
        stored = None
        if not whole or newest is not point or whole[0][0].name != CHECKPOINT:
            segment.publish(committed)
            end, committed = segment.reach(self.store, self.node, self.number)
            stored = max(end, newest.position)
        segment.recover(self.store, self.node, self.number, committed)
        found = self.journal.recover(point.position, stored)
        self._recovered = self.journal.position
        point.torn += found.torn
        if stored is not None:
            number = last_number(self.store, self.node, self.number) + 1
            point.next_segment = max(number, newest.next_segment)
            self._catch_up(stored, found.trimmed > 0, now_ns)
        self.files.sweep(*(p for _, p in whole))
        if found.datagrams or found.torn or found.unreadable:
            log.info(
                "shard %d: %d datagrams to decode from the journal, %d torn, %d files unreadable",
                self.number,
                found.datagrams,
                found.torn,
                found.unreadable,
            )

    def _load(self, whole: list[tuple[Path, Checkpoint]], now_ns: int) -> Checkpoint:
        """Load the newest of the checkpoints whose files can be read, or begin anew.

        What cannot be read is set aside. That may be the state of another version of this program.
        """
        for path, point in whole:
            try:
                self.ledger.load(point.parts["ledger"])
                self.files.load(point, self.decoder, now_ns)
                return point
            except Exception as error:
                passing = isinstance(error, OSError | MemoryError)
                if passing and not isinstance(error, FileNotFoundError):
                    raise
                log.error("shard %d: %s cannot be used: %s", self.number, path.name, error)
                self.decoder = Decoder.of(self.config, self.registry)
                self.ledger = Ledger()
                for name in (path.name, point.state, point.held):
                    if name and (self.directory / name).exists():
                        checkpoints.set_aside(self.directory / name)
        return Checkpoint()

    def _catch_up(self, stored: int, incomplete: bool, now_ns: int) -> None:
        """Bring ledger and decoder from an older checkpoint to the position ``stored``.

        ``incomplete``: the journal has no longer all of it.
        """
        point = self.checkpoint
        if incomplete or (stored and not point.parts):
            # what waits for templates may have been stored meanwhile: it must not be stored twice
            self.decoder.give_up_held()
            self.journal.read_position = max(self.journal.read_position, stored)
            point.uncounted += self.journal.read_position - point.position
            log.error(
                "shard %d: the ledger lacks %d datagrams, counted only by a damaged checkpoint",
                self.number,
                self.journal.read_position - point.position,
            )
        while self.journal.read_position < stored:
            batch = self.journal.read(CHUNK)
            if batch is None:
                break
            known = max(stored - (self.journal.read_position - len(batch)), 0)
            for one in self._decode(batch.select(slice(0, known)), now_ns):
                self.ledger.add_decoded(one)
            self.ledger.stored()
            if known < len(batch):
                self._take(self._decode(batch.select(slice(known, None)), now_ns))

    @property
    def busy(self) -> bool:
        """Whether there is anything to decode or to flush."""
        return self.journal.pending > 0 or self._unflushed

    @property
    def _unflushed(self) -> bool:
        behind = self.journal.read_position > self.checkpoint.position
        return behind or self._sessions_ended or self._unpublished is not None

    def step(self, now_ns: int) -> None:
        """Decode what has arrived, and flush when it is time.

        Few datagrams wait for the flush, because a batch costs nearly the same whatever its size.
        """
        due = time.monotonic() - self._flushed_at >= self.config.store.flush_seconds
        while self.journal.pending >= (1 if due else CHUNK) and self._memory_rows < MAX_ROWS:
            self._end_sessions(now_ns)
            batch = self.journal.read(CHUNK)
            if batch is None:
                break
            if len(batch):
                self._lag_ns = max(self._lag_ns, now_ns - int(batch.received_ns[0]))
            self._take(self._decode(batch, now_ns))
        self._end_sessions(now_ns)
        due = due or self._memory_rows >= MAX_ROWS
        if due and self._unflushed:
            self.flush(now_ns)

    def _decode(self, batch: DatagramBatch, now_ns: int) -> list[Decoded]:
        """Decode ``batch``, but for the canaries in it: they end here."""
        if self._recogniser is not None:
            batch, canaries = self._recogniser.without(batch)
            self.ledger.canaries += canaries
        return self._decode_all(batch, now_ns)

    def _decode_all(self, batch: DatagramBatch, now_ns: int) -> list[Decoded]:
        """Decode ``batch``; should a datagram break the decoder, all others are still decoded."""
        try:
            return [self.decoder.decode(batch, now_ns)]
        except Exception:
            if len(batch) == 1:
                self._keep_poison(batch)
                return [self.decoder.undecodable(batch)]
            half = len(batch) // 2
            return [
                *self._decode_all(batch.select(slice(0, half)), now_ns),
                *self._decode_all(batch.select(slice(half, None)), now_ns),
            ]

    def _keep_poison(self, batch: DatagramBatch) -> None:
        """Keep the datagram that the exception at hand is about, if there are not many yet."""
        folder = self.directory / "undecodable"
        try:
            folder.mkdir(exist_ok=True)
            if len(os.listdir(folder)) >= MAX_POISON:
                return
            log.exception("shard %d: a datagram breaks the decoder", self.number)
            (folder / f"{int(batch.received_ns[0])}.bin").write_bytes(batch.payload(0))
        except OSError as error:
            log.error("shard %d: %s", self.number, error)

    def _take(self, decoded: list[Decoded]) -> None:
        for one in decoded:
            self.ledger.add_decoded(one)
            counts = np.bincount(one.exporter, one.records, len(self.decoder.sources.addresses))
            for source, records in one.released_records.items():
                counts[self.decoder.sources.sources[source].exporter] += records
            for exporter in np.flatnonzero(counts).tolist():
                self._flows_of[exporter] += int(counts[exporter])
            self._row_count += sum(batch.num_rows for batch in one.flows)
            every = (*one.flows, *one.counters, *one.options)
            self._memory_rows += sum(batch.num_rows for batch in every)
            for table, batches in (
                ("flows", one.flows),
                ("counters", one.counters),
                ("options", one.options),
            ):
                self._rows[table] += batches

    def _end_sessions(self, now_ns: int) -> None:
        position = self.journal.read_position
        ended: set[int] = set()
        if self._recovered is not None and position >= self._recovered:
            # all that the process before has received is decoded; its connections ended with it
            self._recovered = None
            ended = self.decoder.sessions()
        for stream in self.streams:
            while stream.ended and stream.ended[0][0] <= position:
                ended.add(stream.ended.popleft()[1])
        for session in ended:
            self.decoder.end_session(session)
        if ended:  # what waited in them is a loss that belongs into the ledger
            self._take(self._decode(_NO_DATAGRAMS, now_ns))
            self._sessions_ended = True

    def flush(self, now_ns: int) -> None:
        """Make everything decoded so far durable. When the disk is full, oldest segments go."""
        if time.monotonic() < self._retry_at:
            return
        for attempt in range(3):
            try:
                self._flush(now_ns)
                self.tell_flush(0)
                return
            except OSError as error:
                log.error("shard %d: cannot flush: %s", self.number, error)
                self.tell_flush(error.errno or errno.EIO)
                # stored flows go for nothing but space
                if error.errno not in FULL or not self._make_room(ROOM_BYTES << attempt):
                    break
        # rows stay in memory, datagrams in the journal; the kernel counts what then has no room
        self._retry_at = time.monotonic() + 1.0

    def _make_room(self, needed: int) -> int:
        try:
            return self.release_spares() or make_room(self.store, needed)
        except OSError as error:
            log.error("shard %d: no room can be made: %s", self.number, error)
            return 0

    def _flush(self, now_ns: int) -> None:
        self._publish()  # what the flush before could not
        if not self._unflushed:
            return
        begun = time.monotonic()
        staged: list[Path] = []
        point = None
        try:
            point = self._stage(staged, now_ns)
            checkpoints.save(self.directory, point)
        except OSError:
            if point is None or not checkpoints.is_last(self.directory, point):
                self.files.failed()
                for path in staged:
                    path.unlink(missing_ok=True)
                raise
            # committed, though a crash of the machine could still undo it
            self._synced = False
        before, self.checkpoint = self.checkpoint, point
        self.files.committed()
        self.ledger.stored()
        self._unpublished = staged
        self._sessions_ended = False
        for batches in self._rows.values():
            batches.clear()
        self._flows_of.clear()
        self._row_count = self._memory_rows = 0
        self._flushed_at = time.monotonic()
        self._publish()
        self.files.sweep(before, point)
        self._flush_took = time.monotonic() - begun

    def _stage(self, staged: list[Path], now_ns: int) -> Checkpoint:
        """Write all that the next checkpoint refers to; adds to ``staged`` the segments written."""
        position = self.journal.read_position
        number = self.checkpoint.next_segment
        span = self.checkpoint.position, position
        for table, batches in self._rows.items():
            groups = segment.groups(batches)
            known = self._exporters() if table == "flows" and len(groups) == 1 else None
            for group in groups:
                name = SegmentName.hot(self.node, self.number, number)
                folder = self.store / table
                staged.append(segment.stage(folder, name, group, span, self._compress(), known))
                number += 1
        for folder in {path.parent for path in staged}:
            sync_directory(folder)
        point = self.files.save(self.checkpoint, self.decoder)
        point.position, point.next_segment, point.updated_ns = position, number, now_ns
        point.staged = [str(path.relative_to(self.store)) for path in staged]
        point.torn, point.uncounted = self.checkpoint.torn, self.checkpoint.uncounted
        point.parts = {"ledger": self.ledger.dump()}
        return point

    def _publish(self) -> None:
        """Make visible what the last checkpoint covers; only then the journal can be trimmed."""
        if self._unpublished is None:
            return
        if not self._synced:
            sync_directory(self.directory)
            self._synced = True
        segment.publish(self._unpublished)
        self._unpublished = None
        self.journal.trim(self.checkpoint.position)

    def _exporters(self) -> dict[str, int]:
        """Flow records in memory, by the text of their exporter's address."""
        addresses = self.decoder.sources.addresses
        return {segment.address_text(addresses[e]): n for e, n in self._flows_of.items()}

    def _compress(self) -> bool:
        """Whether to spend processor time on smaller segments.

        They live until they are packed into Parquet, some seconds later. With few rows the time is
        nothing; with many it is the largest part of storing them, unless the disk is the limit.
        """
        slow_disk = self._flush_took > self.config.store.flush_seconds / 2
        return self._row_count < PLAIN_ROWS or slow_disk

    def report(self) -> dict[str, Any]:
        """Figures for the supervisor."""
        lag = self.journal.position - self.checkpoint.position
        lag_ns, self._lag_ns = self._lag_ns, 0
        imbalances = self.ledger.balance(
            self._row_count,
            self.journal.read_position - self.checkpoint.torn - self.checkpoint.uncounted,
        )
        return {
            "journal_position": self.journal.position,
            "journal_bytes": self.journal.bytes,
            "checkpoint_position": self.checkpoint.position,
            "checkpoint_ns": self.checkpoint.updated_ns,
            "lag_datagrams": lag,
            "lag_seconds": round(lag_ns / 1e9, 3),
            "torn": self.checkpoint.torn,
            "uncounted": self.checkpoint.uncounted,
            "canaries": self.ledger.canaries,
            "templates_evicted": sum(self.decoder.templates_evicted().values()),
            "options_evicted": sum(self.decoder.options_evicted().values()),
            "balanced": not imbalances,
            "imbalances": [str(i) for i in imbalances][:10],
        }

    def close(self) -> bool:
        """Decode and store what is there, then let go; the receiver has left this shard before.

        False when something is left in the journal, for whoever has this shard next: on a full
        disk.
        """
        position = -1
        while self.journal.pending and self.journal.read_position > position:
            position = self.journal.read_position
            self._flushed_at = -math.inf
            self.step(time.time_ns())
        self._end_sessions(time.time_ns())
        if self._unflushed:
            self._retry_at = 0.0
            self.flush(time.time_ns())
        done = not self.busy
        self.journal.close()
        os.close(self._lock)
        return done
