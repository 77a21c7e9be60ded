"""The files of the audit log: ``audit.jsonl``, and older ones with a number."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from api.audit.record import Record, Request, follow, head_of
from api.views import AuditHead

log = logging.getLogger(__name__)

MOST_BYTES = 4 << 20
"""Of a file; a longer one becomes an older one."""
FILES = 4
_WRITE_SECONDS = 2.0
_WAITING = 1000
"""Lines that wait for a disk that hangs."""


class AuditLog:
    """Appends lines in a thread of its own, each durable before the next."""

    def __init__(
        self, path: Path | None, node: str, most_bytes: int = MOST_BYTES, files: int = FILES
    ) -> None:
        """``path``: None to keep nothing."""
        self._path = path
        self._node = node
        self._most_bytes = most_bytes
        self._files: list[Path] = []
        """Oldest first."""
        if path is not None:
            older = (path.with_suffix(f".{n}.jsonl") for n in range(files - 1, 0, -1))
            self._files = [*older, path]
        self._head = AuditHead()
        self._unwritten = 0
        self._waiting = 0
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._load()

    @property
    def head(self) -> AuditHead | None:
        """The newest line; None where nothing is kept."""
        return self._head if self._path is not None else None

    def passed_over(self) -> None:
        """Something is not written; the next line counts it."""
        self._unwritten += 1

    async def write(self, request: Request) -> None:
        """Remember ``request``; durable when this returns, unless the disk fails or hangs.

        A change has been made by then, and a node whose disk is full must still be drained: so
        what cannot be written is counted, and logged, and not refused.
        """
        if self._path is None:
            return
        if self._waiting >= _WAITING:
            self.passed_over()
            return
        unwritten, self._unwritten = self._unwritten, 0
        self._waiting += 1
        writing = asyncio.get_running_loop().run_in_executor(
            self._writer, self._append, request, unwritten
        )
        writing.add_done_callback(partial(self._done, unwritten))
        try:
            await asyncio.wait_for(asyncio.shield(writing), _WRITE_SECONDS)
        except OSError as error:
            log.error("the audit log cannot be written: %s: %s", self._path, error.strerror)
        except TimeoutError:
            log.error("the audit log was not written within %g s", _WRITE_SECONDS)

    def read(self, most: int) -> tuple[list[Record], str]:
        """The newest ``most`` records, oldest first, and what is wrong with the chain."""
        with self._lock:
            head = self._head
            found = [(file, file.read_bytes()) for file in self._files if file.exists()]
        lines = [line for _, data in found for line in data.splitlines()]
        # the oldest file is the only one that may have had one before it
        from_start = not found or found[0][0] != self._files[0]
        return follow(lines, from_start, head, most)

    def close(self) -> None:
        """Wait until all is written."""
        self._writer.shutdown()

    def _done(self, unwritten: int, writing: asyncio.Future[None]) -> None:
        self._waiting -= 1
        if writing.cancelled() or writing.exception() is not None:
            self._unwritten += unwritten + 1

    def _load(self) -> None:
        """Go on after the last line; what a crash has torn was never answered, and goes."""
        for file in reversed(self._files):
            try:
                data = file.read_bytes()
                whole = data[: data.rfind(b"\n") + 1]
                if whole != data:
                    log.warning("%s: its last line is torn, and goes", file)
                    os.truncate(file, len(whole))
            except FileNotFoundError:
                continue
            except OSError as error:
                log.error("the audit log cannot be read: %s: %s", file, error.strerror)
                return
            if whole:
                self._head = _last(file, whole)
                return

    def _append(self, request: Request, unwritten: int) -> None:
        assert self._path is not None
        with self._lock:
            record = Record(
                **request.model_dump(),
                number=self._head.number + 1,
                node=self._node,
                unwritten=unwritten,
                previous=self._head.sha256,
            )
            line = record.line()
            self._rotate(len(line))
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                _write(handle, line + b"\n")
            finally:
                os.close(handle)
            self._head = head_of(record, line)

    def _rotate(self, more: int) -> None:
        assert self._path is not None
        if not self._path.exists() or self._path.stat().st_size + more < self._most_bytes:
            return
        for older, newer in zip(self._files, self._files[1:], strict=False):
            if newer.exists():
                newer.replace(older)


def _last(file: Path, data: bytes) -> AuditHead:
    line = data.splitlines()[-1]
    try:
        return head_of(Record.model_validate_json(line), line)
    except ValidationError:
        # the next line starts anew, and the chain shows it
        log.error("%s: its last line is no record", file)
        return AuditHead()


def _write(handle: int, data: bytes) -> None:
    """All of ``data`` or nothing."""
    size = os.fstat(handle).st_size
    try:
        if os.write(handle, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise
