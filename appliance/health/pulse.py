"""The pulse: a small mapped file in which workers say what they have received, shard by shard.

The supervisor makes it anew at each start; every process that has it sees it through one mapping.
A row is a shard's. The process that serves the shard holds a record lock (fcntl(2)) on the row,
which the kernel takes away when it dies, so that readers know whether somebody is there. All values
are whole 64-bit words, each written by one thread only::

    header   magic, shards, columns, revision
    row      error of the receiver, since when; error of the flush, since when;
             for each column: number of the newest canary, datagrams received
    names    for each column the UDP listener that canaries are asked for through, or nothing

A listener keeps its column for as long as it is open, whichever others come and go; the revision
grows when the names change.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

PULSE_FILE: Final = "pulse"
MAGIC: Final = int.from_bytes(b"TNDMPLS2", "little")
COLUMNS: Final = 64
"""Listeners that can be proven at once."""
_WORD: Final = 8
_HEADER_WORDS: Final = 8
_LINE_WORDS: Final = 8
"""Rows begin at a cache line of their own."""
_REVISION: Final = 3
_LISTENERS_AT: Final = 4
_NAME_BYTES: Final = 96
_ROW_WORDS: Final = -(-(_LISTENERS_AT + 2 * COLUMNS) // _LINE_WORDS) * _LINE_WORDS
_FLOCK: Final = struct.Struct("hhqqi4x")
"""struct flock of a 64-bit Linux: type, whence, start, length, pid."""


class PulseError(Exception):
    """There is no pulse, or it is of another configuration; the text says which."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps a shard from storing. ``since_ns`` tells one occurrence from the next."""

    errno: int
    since_ns: int
    where: str
    """``journal`` or ``store``."""


class Row:
    """One shard's part of the pulse."""

    def __init__(self, fd: int, words: memoryview, first: int, size: int) -> None:
        self._fd, self._first, self._size = fd, first, size
        self._words = words[first : first + size]

    # the process that serves the shard

    def hold(self) -> None:
        """Say that this process serves the shard; waits for a dying one before it to be gone."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX, self._size * _WORD, self._first * _WORD)

    def drop(self) -> None:
        """Say that it no longer does."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, self._size * _WORD, self._first * _WORD)

    def received(self, column: int, datagrams: int, canary: int) -> None:
        """``datagrams`` have come through a listener so far; ``canary``: 0 or the newest number."""
        at = _LISTENERS_AT + 2 * column
        self._words[at + 1] = datagrams
        if canary:
            self._words[at] = canary

    def receiver_problem(self, code: int) -> None:
        """The error for which no journal block is to be had; 0 once there is one."""
        self._problem(0, code)

    def flush_problem(self, code: int) -> None:
        """The error for which nothing can be stored; 0 once it can."""
        self._problem(2, code)

    def _problem(self, at: int, code: int) -> None:
        if self._words[at] != code:
            self._words[at + 1] = time.monotonic_ns()
            self._words[at] = code

    # readers

    def server(self) -> int:
        """The process that serves the shard, 0 when none does. Never of the asking process."""
        ask = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, self._first * _WORD, self._size * _WORD, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_GETLK, ask))
        return 0 if kind == fcntl.F_UNLCK else int(pid)

    def newest(self, column: int) -> int:
        """The number of the newest canary that came through a listener; 0: none yet."""
        return self._words[_LISTENERS_AT + 2 * column]

    def datagrams(self, column: int) -> int:
        """Datagrams that have come through a listener."""
        return self._words[_LISTENERS_AT + 2 * column + 1]

    def problem(self) -> Problem | None:
        """What keeps the shard from storing now. A full journal is none: that the disk is full is
        known from the flush, and a decoder that stays behind is no trouble of the disk.
        """
        for at, where in ((0, "journal"), (2, "store")):
            code = self._words[at]
            if code and code != errno.ENOBUFS:
                return Problem(code, self._words[at + 1], where)
        return None


class Pulse:
    """The whole file, mapped; see the module."""

    def __init__(self, fd: int, shards: int) -> None:
        self._fd = fd
        self.inode = os.fstat(fd).st_ino
        self.columns: dict[str, int] = {}
        """Of listeners, by their names; workers have it from their supervisor."""
        writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._names_at = (_HEADER_WORDS + shards * _ROW_WORDS) * _WORD
        self._mapped = mmap.mmap(fd, self._names_at + COLUMNS * _NAME_BYTES, access=access)
        self._words = memoryview(self._mapped).cast("Q")
        self.rows = [
            Row(fd, self._words, _HEADER_WORDS + k * _ROW_WORDS, _ROW_WORDS) for k in range(shards)
        ]

    @classmethod
    def create(cls, path: Path, shards: int) -> Pulse:
        """Make the file anew; whoever has the one before mapped keeps that."""
        temporary = path.with_name(path.name + ".tmp")
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        os.fchmod(fd, 0o640)
        size = (_HEADER_WORDS + shards * _ROW_WORDS) * _WORD + COLUMNS * _NAME_BYTES
        os.posix_fallocate(fd, 0, size)
        os.pwrite(fd, _header(shards), 0)
        pulse = cls(fd, shards)
        temporary.rename(path)
        return pulse

    @classmethod
    def open(cls, path: Path, shards: int) -> Pulse:
        """Map the file for reading. Raises PulseError."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise PulseError(f"{path}: {error.strerror}") from error
        expected = _header(shards)
        if os.pread(fd, len(expected), 0) != expected:
            os.close(fd)
            raise PulseError(f"{path} is of a collector with another configuration")
        return cls(fd, shards)

    def close(self) -> None:
        """Drop a mapping that was opened for reading; a server would lose its locks."""
        self.rows.clear()
        os.close(self._fd)

    # the supervisor

    def admit(self, names: Iterable[str]) -> None:
        """Give each listener of ``names`` a column, before the workers that need it are started.

        Those of all others are free from then on.
        """
        wanted = list(names)
        self.columns = {n: c for n, c in self.columns.items() if n in wanted}
        free = sorted(set(range(COLUMNS)) - set(self.columns.values()), reverse=True)
        for name in wanted:
            if name in self.columns:
                continue
            if not free:
                log.warning("%s: no canaries come through more than %d listeners", name, COLUMNS)
                break
            self.columns[name] = free.pop()

    def show(self, names: Iterable[str]) -> None:
        """Ask for canaries through the listeners ``names``, and through no others."""
        shown = {self.columns[name]: name for name in names if name in self.columns}
        for column in range(COLUMNS):
            at = self._names_at + column * _NAME_BYTES
            data = shown.get(column, "").encode()
            self._mapped[at : at + _NAME_BYTES] = data.ljust(_NAME_BYTES, b"\0")
        self._words[_REVISION] += 1

    # readers

    @property
    def revision(self) -> int:
        """Grows when :meth:`shown` changes."""
        return self._words[_REVISION]

    def shown(self) -> dict[int, str]:
        """Listeners that canaries are asked for through, by column."""
        found = {}
        for column in range(COLUMNS):
            at = self._names_at + column * _NAME_BYTES
            name = self._mapped[at : at + _NAME_BYTES].rstrip(b"\0").decode()
            if name:
                found[column] = name
        return found


def _header(shards: int) -> bytes:
    return struct.pack("<3Q", MAGIC, shards, COLUMNS)
