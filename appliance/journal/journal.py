"""The journal of one shard: a ring of blocks between the receiver and the decoder."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from appliance.batch import DatagramBatch
from appliance.journal.block import Block, BlockError, Geometry

log = logging.getLogger(__name__)

MAX_READ_BYTES = 8 << 20


@dataclass(slots=True)
class Recovered:
    """What :meth:`Journal.recover` found."""

    datagrams: int = 0
    """Received but not stored by the process before; they will be decoded first."""
    torn: int = 0
    """Slots of an earlier boot that hold no datagram: a named loss."""
    unreadable: int = 0
    """Block files that were torn or foreign; they are renamed to ``*.unreadable``."""
    trimmed: int = 0
    """Positions that were asked for and are gone, because they had been stored."""


class Journal:
    """Blocks in order of their number; positions count datagrams since the shard was made.

    One thread receives (``open_block``), one decodes (``read``, ``trim``). A block is recycled,
    not deleted, when all of it is stored: a mapped page that is in memory already costs no fault.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        geometry: Geometry | None = None,
    ) -> None:
        self.directory = directory
        self.geometry = geometry or Geometry.for_budget(max_bytes)
        self.max_blocks = max(2, max_bytes // self.geometry.size)
        self._needed = 2.0
        """Blocks lately in use at once; a block that is ready costs no page fault, so this many
        are kept. Falls by a part a trim: a peak is forgotten after some minutes."""
        self._live: deque[Block] = deque()
        self._free: list[Block] = []
        self._lock = threading.Lock()
        self._next_number = 1
        self._next_file = 0
        self.position = 0
        """Position after the last received datagram."""
        self.read_position = 0
        """Position of the next datagram to decode."""
        directory.mkdir(parents=True, exist_ok=True)

    def recover(self, position: int, stored: int | None = None) -> Recovered:
        """Take over the blocks on disk; everything from ``position`` on will be read again.

        ``stored``: given where ``position`` is that of an older checkpoint than the last: how far
        the store is known to have come. What the journal lacks before it, or before its first
        block, was stored and trimmed; anything else that it lacks is lost.
        """
        found: list[tuple[Block, bool]] = []
        result = Recovered()
        for path in sorted(self.directory.glob("*.block")):
            if not path.stem.isdigit():
                continue
            self._next_file = max(self._next_file, int(path.stem) + 1)
            try:
                found.append(Block.open(path))
            except (BlockError, OSError) as error:
                if path.read_bytes()[:8].strip(b"\0"):
                    log.warning("journal block %s is not readable: %s", path, error)
                    path.rename(path.with_suffix(".unreadable"))
                    result.unreadable += 1
                else:
                    path.unlink()  # never begun, or its beginning was interrupted: holds nothing
        found.sort(key=lambda pair: pair[0].number)
        if stored is not None:
            first = min((b.first for b, _ in found if b.end > position), default=stored)
            begin = max(position, first)
            result.trimmed, position = begin - position, begin
        self.position = self.read_position = position
        for block, trusted in found:
            self._next_number = max(self._next_number, block.number + 1)
            if block.end <= position:
                block.unlink()
                continue
            if block.first > self.position:
                log.warning("journal: positions %d to %d are missing", self.position, block.first)
                result.torn += block.first - self.position
            # positions that are lost stay used, so that the sums of the ledger stay right
            self.position = block.end
            if not trusted and (torn := block.torn()).any():
                # what follows the first lost page cannot be told from an older generation
                keep = int(torn.argmax())
                result.torn += block.count - max(keep, position - block.first)
                block.count = block.capacity = keep
            self._live.append(block)
        if stored is not None and self.position < stored:
            result.trimmed += stored - self.position
            self.position = stored
        result.datagrams = sum(max(b.end - max(b.first, position), 0) for b in self._live)
        return result

    def open_block(self) -> Block | None:
        """The block to receive into, or None while the journal is as large as it may be.

        OSError (ENOSPC, EDQUOT) when no block can be made: the caller frees space, and tries again.
        """
        with self._lock:
            if self._live and not self._live[-1].full:
                return self._live[-1]
            block = self._free.pop() if self._free else None
            if block is None and len(self._live) >= self.max_blocks:
                return None
        if block is None:
            path = self.directory / f"{self._next_file:06d}.block"
            self._next_file += 1
            block = Block.create(path, self.geometry)
        block.begin(self._next_number, self.position)
        self._next_number += 1
        with self._lock:
            self._live.append(block)
        return block

    def received(self, block: Block, count: int) -> None:
        """Account for ``count`` datagrams that the kernel put into ``block``."""
        block.note(count)
        self.position = block.end

    def read(self, limit: int) -> DatagramBatch | None:
        """The next at most ``limit`` received datagrams, all of one block; None if there are none.

        No more than MAX_READ_BYTES, unless one alone has more: what a batch becomes in memory is in
        proportion to its bytes.

        Moves ``read_position``; the bytes stay until :meth:`trim` passes them.
        """
        position = self.position
        with self._lock:
            blocks = list(self._live)
        for block in blocks:
            stop = block.count
            if block.first + stop <= self.read_position:
                continue
            start = max(self.read_position - block.first, 0)
            stop = min(stop, start + limit)
            size = np.cumsum(block.messages["length"][start:stop], dtype=np.int64)
            stop = start + max(int(np.searchsorted(size, MAX_READ_BYTES, "right")), 1)
            self.read_position = block.first + stop
            return block.batch(start, stop)
        self.read_position = max(self.read_position, position)  # the rest is lost
        return None

    def trim(self, position: int) -> None:
        """Everything before ``position`` is safely stored: recycle or remove its blocks."""
        drop: list[Block] = []
        with self._lock:
            self._needed = max(len(self._live), self._needed * 0.99, 2.0)
            while self._live and self._live[0].full and self._live[0].end <= position:
                block = self._live.popleft()
                if block.geometry == self.geometry:
                    self._free.append(block)
                else:
                    drop.append(block)
            excess = len(self._live) + len(self._free) - int(self._needed)
            if excess > 0:
                drop += self._free[:excess]
                del self._free[:excess]
        for block in drop:
            block.unlink()

    def release(self) -> int:
        """Remove the blocks that are only kept ready, for a disk that is full; bytes freed."""
        with self._lock:
            drop, self._free, self._needed = self._free, [], 2.0
        for block in drop:
            block.unlink()
        return len(drop) * self.geometry.size

    @property
    def pending(self) -> int:
        """Datagrams received and not yet read."""
        return self.position - self.read_position

    @property
    def bytes(self) -> int:
        """Disk space taken, in bytes."""
        with self._lock:
            return (len(self._live) + len(self._free)) * self.geometry.size

    def close(self) -> None:
        """Drop the mappings; the files stay, for the next process."""
        with self._lock:
            for block in [*self._live, *self._free]:
                block.close()
            self._live.clear()
            self._free.clear()
