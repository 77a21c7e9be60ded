"""Writing a large new file past the page cache.

A segment is written once and read perhaps once, by maintenance. Through the page cache, each of its
pages is first allocated, then filled, then written out: most of the processor time of a flush.
O_DIRECT (open(2)) leaves one copy into an aligned buffer, and the disk's DMA.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Final

BUFFER_BYTES: Final = 4 << 20
BLOCK: Final = 4096
_spare: list[mmap.mmap] = []


class DirectFile:
    """A file object for writing in order; on file systems without O_DIRECT, an ordinary one.

    Use as a context manager: leaving it without an error makes the content durable.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._direct = True
        try:
            self._fd = os.open(path, flags | os.O_DIRECT, 0o644)
        except OSError:
            self._direct = False
            self._fd = os.open(path, flags, 0o644)
        self._buffer = _spare.pop() if _spare else mmap.mmap(-1, BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._at = 0
        self._size = 0
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        """Take ``data``; it reaches the disk in large pieces."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            count = min(len(view) - done, BUFFER_BYTES - self._at)
            self._view[self._at : self._at + count] = view[done : done + count]
            self._at += count
            done += count
            if self._at == BUFFER_BYTES:
                self._write_out(BUFFER_BYTES)
        self._size += done
        return done

    def _write_out(self, count: int) -> None:
        done = 0
        while done < count:
            done += os.write(self._fd, self._view[done:count])
        self._at = 0

    def __enter__(self) -> DirectFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if error is None:
                # whole blocks only: the last one is cut to its length afterwards
                self._write_out(-(-self._at // BLOCK) * BLOCK)
                os.ftruncate(self._fd, self._size)
                os.fsync(self._fd)
        finally:
            self.closed = True
            os.close(self._fd)
            self._view.release()
            _spare.append(self._buffer)

    # what pyarrow asks of a file object

    def tell(self) -> int:
        """Bytes taken so far."""
        return self._size

    def flush(self) -> None:
        """Nothing: the content becomes durable at the end."""

    def close(self) -> None:
        """Nothing: the context manager closes."""

    def writable(self) -> bool:
        """True."""
        return True

    def readable(self) -> bool:
        """False."""
        return False

    def seekable(self) -> bool:
        """False."""
        return False
