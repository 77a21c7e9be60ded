"""The files that say how the node does: keepalived's track file, and the same in words."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Final

TRACK_FILE: Final = "health"
JSON_FILE: Final = "health.json"
_WIDTH: Final = 5


class TrackFile:
    """A file with a number that keepalived watches.

    keepalived reads it when a writer closes it, and takes an empty file for 0. So it is written in
    place, in one write of a fixed size: the number, blanks (no zeros: 010 is octal), a newline. At
    no moment is it empty, cut short or missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> int | None:
        """The number in the file; None where there is no file, or no number in it."""
        try:
            return int(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def write(self, value: int) -> None:
        """Make ``value`` the number in the file."""
        data = b"%-*d\n" % (_WIDTH - 1, value)
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            _replace(self._path, data)
            return
        try:
            os.pwrite(fd, data, 0)
            os.ftruncate(fd, len(data))
        finally:
            os.close(fd)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Replace ``path`` by ``document``: readers see the old one or the new one."""
    _replace(path, json.dumps(document).encode() + b"\n")


def _replace(path: Path, data: bytes) -> None:
    # not synced: it says how the node does now, and nothing after a crash
    temporary = path.with_name(path.name + ".tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    temporary.rename(path)
