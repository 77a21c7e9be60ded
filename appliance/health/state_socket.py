"""The collector's state socket: whoever connects gets the node document as of that moment.

The file node.json is as old as the last second, and is not written at all by a collector whose disk
hangs; an answer here shows that the supervisor's loop turns.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

SOCKET_FILE: Final = "collector.sock"
_BACKLOG: Final = 64
_ANSWERS_AT_ONCE: Final = 8
"""Connections answered in one turn of the supervisor's loop."""


class StateSocket:
    """Listens at ``path``; never waits for a client."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._sock = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        umask = os.umask(0o117)
        try:
            self._sock.bind(str(path))
        finally:
            os.umask(umask)
        self._sock.listen(_BACKLOG)
        self._path = path

    def fileno(self) -> int:
        """For select(2): readable when somebody asks."""
        return self._sock.fileno()

    def answer(self, document: Callable[[], bytes]) -> None:
        """Answer those who wait now; what has no room in a client's buffer is not sent to it."""
        for _ in range(_ANSWERS_AT_ONCE):
            try:
                client, _ = self._sock.accept()
            except OSError:  # nobody is left, or nobody can be accepted now
                return
            with client, contextlib.suppress(OSError):
                client.setblocking(False)
                client.send(document())

    def close(self) -> None:
        """Let go of the socket; another process that has it goes on."""
        self._sock.close()

    def remove(self) -> None:
        """Stop listening."""
        self._path.unlink(missing_ok=True)
        self.close()


def ask(path: Path, timeout: float) -> bytes:
    """The answer of the collector at ``path``. OSError (also TimeoutError) when there is none."""
    deadline = time.monotonic() + timeout
    parts: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(timeout)
        sock.connect(str(path))
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{path}: no whole answer within {timeout} s")
            sock.settimeout(left)
            part = sock.recv(1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
