"""One shard: its journal, decoder, ledger and segments, and the order in which they become durable.

    step     journal ──► decode ──► ledger, rows in memory
    flush    rows ──► staged segments ──► checkpoint (the commit) ──► published ──► journal trimmed

A process may die between any two of these. What the checkpoint covers is stored and counted once;
what it does not cover is in the journal, and is decoded again with the state of that checkpoint.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from appliance.batch import DatagramBatch
from appliance.config import Config
from appliance.decode import Decoded, Decoder
from appliance.decode.elements import Registry
from appliance.journal.journal import Journal
from appliance.ledger.ledger import Ledger
from appliance.receive.receiver import StreamIntake
from appliance.store import checkpoint as checkpoints
from appliance.store import segment
from appliance.store.checkpoint import Checkpoint
from appliance.store.durable import replace_file
from appliance.store.files import METADATA_KEY, SegmentName
from appliance.store.retention import make_room

log = logging.getLogger(__name__)

CHUNK = 4096
"""Datagrams decoded at once: enough to share the cost of a batch, few enough for the cache."""
MAX_ROWS = 1_000_000
"""Rows in memory that force a flush before its time."""
PLAIN_ROWS = 5_000
"""Rows of a flush from which on segments are written without compression."""
HELD_SLACK = 1 << 20
"""Bytes that the log of held datagrams may have beyond twice what is held."""
MAX_POISON = 100


class Shard:
    """See the module. Used by one thread; only its journal is shared, with the receiver."""

    def __init__(self, config: Config, number: int, registry: Registry) -> None:
        self.config = config
        self.number = number
        self.node = config.node.name
        self.directory = Path(config.data_dir) / "shards" / str(number)
        self.store = Path(config.data_dir) / "store"
        self.journal = Journal(
            self.directory / "journal", config.journal.max_bytes // config.receive.shards
        )
        self.decoder = Decoder.of(config, registry)
        self.ledger = Ledger()
        self.checkpoint = Checkpoint()
        self.streams: list[StreamIntake] = []
        self._rows: dict[str, list[pa.RecordBatch]] = {"flows": [], "counters": [], "options": []}
        self._row_count = 0
        self._flows_of: Counter[int] = Counter()
        """Flow records in memory, by exporter number."""
        self._flushed_at = time.monotonic()
        self._flush_took = 0.0
        self._state_revision = -1
        self._poisoned = 0
        self._retry_at = 0.0
        self._held_whole = False
        """The log of held datagrams misses something: write it anew."""
        self._lag_ns = 0
        """Largest age of a datagram at its decoding, since the last report."""
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
        """Take up where the process before stopped, however it stopped."""
        point, last = checkpoints.load(self.directory)
        self.checkpoint = point
        committed = [self.store / name for name in point.staged]
        if not last:
            self._recover_position(committed)
        segment.recover(self.store, self.node, self.number, committed)
        if "ledger" in point.parts:
            self.ledger.load(point.parts["ledger"])
            state = (self.directory / point.state).read_bytes() if point.state else b""
            held = (self.directory / point.held).read_bytes() if point.held else b""
            self.decoder.load(state, held[: point.held_bytes], now_ns)
            self._state_revision = self.decoder.revision
        found = self.journal.recover(point.position)
        point.torn += found.torn
        point.position = self.journal.read_position
        if found.datagrams or found.torn or found.unreadable:
            log.info(
                "shard %d: %d datagrams to decode from the journal, %d torn, %d files unreadable",
                self.number,
                found.datagrams,
                found.torn,
                found.unreadable,
            )

    def _recover_position(self, committed: list[Path]) -> None:
        """The last checkpoint is lost: its segments still say how far it had come."""
        segment.publish(committed)
        for table in self._rows:
            for path in (self.store / table).glob(f"{self.node}-{self.number}-*.arrow"):
                name = SegmentName.parse(path)
                if name is None or name.first < self.checkpoint.next_segment:
                    continue
                with pa.memory_map(str(path)) as source:
                    metadata = pa.ipc.open_file(source).schema.metadata or {}
                summary = json.loads(metadata.get(METADATA_KEY, b"{}"))
                end = summary.get("journal", [0, 0])[1]
                self.checkpoint.position = max(self.checkpoint.position, end)
                self.checkpoint.next_segment = max(self.checkpoint.next_segment, name.first + 1)

    @property
    def busy(self) -> bool:
        """Whether there is anything to decode or to flush."""
        return self.journal.pending > 0 or self.journal.read_position > self.checkpoint.position

    def step(self, now_ns: int) -> None:
        """Decode what has arrived, and flush when it is time.

        Few datagrams wait for the flush, because a batch costs nearly the same whatever its size.
        """
        due = time.monotonic() - self._flushed_at >= self.config.store.flush_seconds
        while self.journal.pending >= (1 if due else CHUNK) and self._row_count < MAX_ROWS:
            batch = self.journal.read(CHUNK)
            if batch is None:
                break
            if len(batch):
                self._lag_ns = max(self._lag_ns, now_ns - int(batch.received_ns[0]))
            self._take(self._decode(batch, now_ns))
        self._end_sessions()
        due = due or self._row_count >= MAX_ROWS
        if due and self.journal.read_position > self.checkpoint.position:
            self.flush(now_ns)

    def _decode(self, batch: DatagramBatch, now_ns: int) -> list[Decoded]:
        """Decode ``batch``; should a datagram break the decoder, all others are still decoded."""
        try:
            return [self.decoder.decode(batch, now_ns)]
        except Exception:
            if len(batch) == 1:
                log.exception("shard %d: a datagram breaks the decoder", self.number)
                self._keep_poison(batch)
                return [self.decoder.undecodable(batch)]
            half = len(batch) // 2
            return [
                *self._decode(batch.select(slice(0, half)), now_ns),
                *self._decode(batch.select(slice(half, None)), now_ns),
            ]

    def _keep_poison(self, batch: DatagramBatch) -> None:
        if self._poisoned < MAX_POISON:
            self._poisoned += 1
            folder = self.directory / "undecodable"
            folder.mkdir(exist_ok=True)
            (folder / f"{int(batch.received_ns[0])}.bin").write_bytes(batch.payload(0))

    def _take(self, decoded: list[Decoded]) -> None:
        for one in decoded:
            self.ledger.add_decoded(one)
            counts = np.bincount(one.exporter, one.records, len(self.decoder.sources.addresses))
            for source, records in one.released_records.items():
                counts[self.decoder.sources.sources[source].exporter] += records
            for exporter in np.flatnonzero(counts).tolist():
                self._flows_of[exporter] += int(counts[exporter])
            self._row_count += sum(batch.num_rows for batch in one.flows)
            for table, batches in (
                ("flows", one.flows),
                ("counters", one.counters),
                ("options", one.options),
            ):
                self._rows[table] += batches

    def _end_sessions(self) -> None:
        for stream in self.streams:
            while stream.ended and stream.ended[0][0] <= self.journal.read_position:
                self.decoder.end_session(stream.ended.popleft()[1])

    def flush(self, now_ns: int) -> None:
        """Make everything decoded so far durable. When the disk is full, oldest segments go."""
        if time.monotonic() < self._retry_at:
            return
        for attempt in range(3):
            try:
                self._flush(now_ns)
                return
            except OSError as error:
                needed = 64 << 20
                log.error("shard %d: cannot flush: %s", self.number, error)
                if not make_room(self.store, needed << attempt):
                    break
        # rows stay in memory, datagrams in the journal; the kernel counts what then has no room
        self._retry_at = time.monotonic() + 1.0

    def _flush(self, now_ns: int) -> None:
        begun = time.monotonic()
        position = self.journal.read_position
        number = self.checkpoint.next_segment
        staged: list[Path] = []
        try:
            span = self.checkpoint.position, position
            for table, batches in self._rows.items():
                groups = segment.groups(batches)
                known = self._exporters() if table == "flows" and len(groups) == 1 else None
                for group in groups:
                    name = SegmentName.hot(self.node, self.number, number)
                    folder = self.store / table
                    staged.append(segment.stage(folder, name, group, span, self._compress(), known))
                    number += 1
            held, held_bytes = self._save_held()
            point = Checkpoint(
                position=position,
                next_segment=number,
                updated_ns=now_ns,
                staged=[str(path.relative_to(self.store)) for path in staged],
                state=self._save_state(),
                held=held,
                held_bytes=held_bytes,
                torn=self.checkpoint.torn,
                parts={"ledger": self.ledger.dump()},
            )
            checkpoints.save(self.directory, point)
        except OSError:
            self._held_whole = True
            for path in staged:
                path.unlink(missing_ok=True)
            raise
        self._held_whole = False
        self.ledger.stored()
        before, self.checkpoint = self.checkpoint, point
        segment.publish(staged)
        for old in {before.state, before.held} - {point.state, point.held, ""}:
            (self.directory / old).unlink(missing_ok=True)
        for batches in self._rows.values():
            batches.clear()
        self._flows_of.clear()
        self._row_count = 0
        self._flushed_at = time.monotonic()
        self._flush_took = self._flushed_at - begun
        self.journal.trim(position)

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

    def _save_state(self) -> str:
        """Write templates and options if they changed; the name of their file."""
        if self.decoder.revision == self._state_revision and self.checkpoint.state:
            return self.checkpoint.state
        revision = self.decoder.revision
        name = f"state-{time.time_ns()}"
        replace_file(self.directory / name, self.decoder.dump())
        self._state_revision = revision
        return name

    def _save_held(self) -> tuple[str, int]:
        """Log what came to be held and what no longer is: the log's name and its length."""
        name, size = self.checkpoint.held, self.checkpoint.held_bytes
        if self._held_whole or size > 2 * self.decoder.held_bytes + HELD_SLACK:
            frame = self.decoder.dump_held(everything=True)
            if not frame:
                return "", 0
            name = f"held-{time.time_ns()}"
            replace_file(self.directory / name, frame)
            return name, len(frame)
        frame = self.decoder.dump_held()
        if not frame:
            return name, size
        name = name or f"held-{time.time_ns()}"
        # from here on the decoder takes the frame for written
        self._held_whole = True
        with (self.directory / name).open("ab") as log_file:
            log_file.truncate(size)
            log_file.write(frame)
            log_file.flush()
            os.fsync(log_file.fileno())
        return name, size + len(frame)

    def report(self) -> dict[str, Any]:
        """Figures for the supervisor."""
        lag = self.journal.position - self.checkpoint.position
        lag_ns, self._lag_ns = self._lag_ns, 0
        imbalances = self.ledger.balance(
            self._row_count, self.journal.read_position - self.checkpoint.torn
        )
        return {
            "journal_position": self.journal.position,
            "journal_bytes": self.journal.bytes,
            "checkpoint_position": self.checkpoint.position,
            "checkpoint_ns": self.checkpoint.updated_ns,
            "lag_datagrams": lag,
            "lag_seconds": round(lag_ns / 1e9, 3),
            "torn": self.checkpoint.torn,
            "balanced": not imbalances,
            "imbalances": [str(i) for i in imbalances][:10],
        }

    def close(self) -> None:
        """Decode and store what is there, then let go; the receiver has left this shard before."""
        while self.journal.pending:
            self.step(time.time_ns())
        self._end_sessions()
        if self.journal.read_position > self.checkpoint.position:
            self._retry_at = 0.0
            self.flush(time.time_ns())
        self.journal.close()
        os.close(self._lock)
