"""The pulse: a small mapped file in which workers say what they have received, shard by shard.

The supervisor makes it anew at each start; every process that has it sees it through one mapping.
A row is a shard's. The process that serves the shard holds a record lock (fcntl(2)) on the row,
which the kernel takes away when it dies, so that readers know whether somebody is there. All values
are whole 64-bit words, each written by one thread only::

    header   magic, shards, listeners
    row      error of the receiver, since when; error of the flush, since when;
             for each UDP listener: number of the newest canary, datagrams received
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PULSE_FILE: Final = "pulse"
MAGIC: Final = int.from_bytes(b"TNDMPLS1", "little")
_WORD: Final = 8
_HEADER_WORDS: Final = 8
_LINE_WORDS: Final = 8
"""Rows begin at a cache line of their own."""
_LISTENERS_AT: Final = 4
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

    def __init__(self, fd: int, words: memoryview, first: int, size: int, listeners: int) -> None:
        self._fd, self._first, self._size = fd, first, size
        self._words = words[first : first + size]
        self._listeners = listeners

    # the process that serves the shard

    def hold(self) -> None:
        """Say that this process serves the shard; waits for a dying one before it to be gone."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX, self._size * _WORD, self._first * _WORD)

    def drop(self) -> None:
        """Say that it no longer does."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, self._size * _WORD, self._first * _WORD)

    def received(self, listener: int, datagrams: int, canary: int) -> None:
        """``datagrams`` have come through a listener so far; ``canary``: 0 or the newest number."""
        at = _LISTENERS_AT + 2 * listener
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

    def newest(self, listener: int) -> int:
        """The number of the newest canary that came through a listener; 0: none yet."""
        return self._words[_LISTENERS_AT + 2 * listener]

    def datagrams(self, listener: int) -> int:
        """Datagrams that have come through a listener."""
        return self._words[_LISTENERS_AT + 2 * listener + 1]

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

    def __init__(self, fd: int, shards: int, listeners: int) -> None:
        self._fd = fd
        self.inode = os.fstat(fd).st_ino
        size, row = _words(shards, listeners)
        writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._mapped = mmap.mmap(fd, size * _WORD, access=access)
        words = memoryview(self._mapped).cast("Q")
        self.rows = [Row(fd, words, _HEADER_WORDS + k * row, row, listeners) for k in range(shards)]

    @classmethod
    def create(cls, path: Path, shards: int, listeners: int) -> Pulse:
        """Make the file anew; whoever has the one before mapped keeps that."""
        temporary = path.with_name(path.name + ".tmp")
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        os.fchmod(fd, 0o640)
        os.posix_fallocate(fd, 0, _words(shards, listeners)[0] * _WORD)
        os.pwrite(fd, struct.pack("<3Q", MAGIC, shards, listeners), 0)
        pulse = cls(fd, shards, listeners)
        temporary.rename(path)
        return pulse

    @classmethod
    def open(cls, path: Path, shards: int, listeners: int) -> Pulse:
        """Map the file for reading. Raises PulseError."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise PulseError(f"{path}: {error.strerror}") from error
        expected = struct.pack("<3Q", MAGIC, shards, listeners)
        if os.pread(fd, len(expected), 0) != expected:
            os.close(fd)
            raise PulseError(f"{path} is of a collector with another configuration")
        return cls(fd, shards, listeners)

    def close(self) -> None:
        """Drop a mapping that was opened for reading; a server would lose its locks."""
        self.rows.clear()
        os.close(self._fd)


def _words(shards: int, listeners: int) -> tuple[int, int]:
    """Words of the file, and of a row."""
    row = -(-(_LISTENERS_AT + 2 * listeners) // _LINE_WORDS) * _LINE_WORDS
    return _HEADER_WORDS + shards * row, row
