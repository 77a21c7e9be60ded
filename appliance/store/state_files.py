"""The decoder's state beside a shard's checkpoint: templates and options, and what is held.

Both are files that a checkpoint names. ``state-…`` is written whole when something in it changed;
``held-…`` is a log that grows, of which each checkpoint counts so many bytes. Files of the last two
checkpoints stay, so that the one before the last can be used, too.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from pathlib import Path

from appliance.decode import Decoder
from appliance.store.checkpoint import DAMAGED, Checkpoint
from appliance.store.durable import TEMPORARY, replace_file

HELD_SLACK = 1 << 20
"""Bytes that the log of held datagrams may have beyond twice what is held."""
_MINE = ("state-", "held-", TEMPORARY)


class StateFiles:
    """The files in one shard's directory; a save ends with :meth:`committed` or :meth:`failed`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._revision = -1
        """The decoder's, of the state that is written."""
        self._saved = -1
        self._held_whole = False
        """The log of held datagrams misses something: write it anew."""
        self._points: tuple[Checkpoint, ...] = ()
        """Those whose files must stay."""

    def load(self, point: Checkpoint, decoder: Decoder, now_ns: int) -> None:
        """Load what ``point`` names into a fresh decoder.

        ValueError, KeyError and the like for damaged files, and those of another version.
        """
        state = (self.directory / point.state).read_bytes() if point.state else b""
        if zlib.crc32(state) != point.state_crc:
            raise ValueError(f"{point.state} fails its checksum")
        held = (self.directory / point.held).read_bytes() if point.held else b""
        decoder.load(state, held[: point.held_bytes], now_ns)
        self._revision = decoder.revision

    def save(self, before: Checkpoint, decoder: Decoder) -> Checkpoint:
        """Write what changed since ``before``; gives a checkpoint that names the files, no more."""
        self._saved = decoder.revision
        held, held_bytes = self._save_held(before, decoder)
        state, crc = before.state, before.state_crc
        if self._saved != self._revision or not state:
            data = decoder.dump()
            state, crc = f"state-{time.time_ns()}", zlib.crc32(data)
            replace_file(self.directory / state, data)
        return Checkpoint(state=state, state_crc=crc, held=held, held_bytes=held_bytes)

    def _save_held(self, before: Checkpoint, decoder: Decoder) -> tuple[str, int]:
        """Log what came to be held and what no longer is: the log's name and its length."""
        name, size = before.held, before.held_bytes
        if self._held_whole or size > 2 * decoder.held_bytes + HELD_SLACK:
            frame = decoder.dump_held(everything=True)
            if not frame:
                return "", 0
            name = f"held-{time.time_ns()}"
            replace_file(self.directory / name, frame)
            return name, len(frame)
        frame = decoder.dump_held()
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

    def committed(self) -> None:
        """What was saved is part of the last checkpoint now."""
        self._revision = self._saved
        self._held_whole = False

    def failed(self) -> None:
        """What was saved is part of no checkpoint."""
        self._held_whole = True
        self.sweep(*self._points)

    def sweep(self, *points: Checkpoint) -> None:
        """Remove all files but those that ``points`` name."""
        self._points = points
        needed = {name for point in points for name in (point.state, point.held)}
        for name in os.listdir(self.directory):
            if name.startswith(_MINE) and not name.endswith(DAMAGED) and name not in needed:
                with contextlib.suppress(OSError):  # the next one will
                    (self.directory / name).unlink()
