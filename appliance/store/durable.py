"""Files that are there whole or not at all, also after a power failure, and the store's lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp-"
"""Prefix of files that are being written; nobody reads them, and maintenance removes them."""


def sync_directory(directory: Path) -> None:
    """Make renames and unlinks in ``directory`` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def temporary_of(path: Path) -> Path:
    """Where ``path`` is written before it is renamed into place: same directory."""
    return path.with_name(TEMPORARY + path.name)


def replace_file(path: Path, data: bytes, mode: int | None = None) -> None:
    """Make ``data`` the content of ``path``: old or new after a crash, never a mixture.

    ``mode``: its permissions, whatever the umask. Leaves no temporary file behind when it fails
    (``ENOSPC``).
    """
    temporary = temporary_of(path)
    try:
        with temporary.open("wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on file ``path`` (made when missing); released when a process dies.

    Yields True; or False, without the lock, when ``wait`` is false and somebody else holds it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(fd)


def store_lock(store: Path) -> Path:
    """The lock of whoever changes what is visible: held for a commit or a removal, never longer."""
    return store / "lock"
