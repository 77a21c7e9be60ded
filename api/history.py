"""The transitions of this node's VIPs, kept in a file: one JSON document a line."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import ValidationError

from api.views import Transition

log = logging.getLogger(__name__)

MOST = 1000
"""Transitions that are kept."""


class History:
    """The newest transitions in memory; written by a thread of its own, so nobody waits for it.

    A transition is written when it happens, and again when its cause is known; of two lines with
    the same time and VIP the later one holds.
    """

    def __init__(self, path: Path | None, most: int = MOST) -> None:
        """``path``: None to keep nothing over a restart."""
        self._path = path
        self._most = most
        self._found: dict[tuple[int, str], Transition] = {}
        self._lines = 0
        self._torn = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._load()

    def all(self) -> list[Transition]:
        """Oldest first."""
        return list(self._found.values())

    def put(self, transition: Transition) -> None:
        """Add a transition, or replace the same one."""
        self._found[transition.time_ns, transition.vip] = transition
        while len(self._found) > self._most:
            del self._found[next(iter(self._found))]
        if self._path is not None:
            kept = self.all() if self._lines >= 2 * self._most else None
            self._lines = len(self._found) if kept is not None else self._lines + 1
            self._writer.submit(self._write, transition, kept)

    def close(self) -> None:
        """Wait until all is written."""
        self._writer.shutdown()

    def _load(self) -> None:
        if self._path is None:
            return
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("the history of failovers cannot be read: %s", error)
            return
        self._torn = bool(data) and not data.endswith(b"\n")
        for line in data.splitlines():
            self._lines += 1
            try:
                found = Transition.model_validate_json(line)
            except ValidationError:
                continue  # torn by a crash
            self._found[found.time_ns, found.vip] = found
        self._found = dict(list(self._found.items())[-self._most :])

    def _write(self, transition: Transition, kept: list[Transition] | None) -> None:
        assert self._path is not None
        try:
            if kept is not None:
                temporary = self._path.with_suffix(".tmp")
                temporary.write_bytes(b"".join(map(_line, kept)))
                os.replace(temporary, self._path)
                return
            with self._path.open("ab") as file:
                file.write((b"\n" if self._torn else b"") + _line(transition))
            self._torn = False
        except OSError as error:
            log.warning("the history of failovers cannot be written: %s", error)


def _line(transition: Transition) -> bytes:
    return transition.model_dump_json(by_alias=True).encode() + b"\n"
