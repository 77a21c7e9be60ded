"""The process that looks for another configuration, so that a disk that hangs stops nobody else.

It speaks to the supervisor over a socket pair, in lines of JSON: what :func:`look` finds, at first,
when the settings change, and when it is asked to.
"""

from __future__ import annotations

import json
import select
import signal
import socket
from pathlib import Path
from typing import Any

from appliance.config import ConfigInvalid, read
from appliance.settings import path_of

LOOK_SECONDS = 1.0
_Stamp = tuple[int, int, int] | None


def run(path: Path, where: Path, control: socket.socket) -> None:
    """Look until the supervisor is gone. ``path``: the configuration file; ``where``: its settings.

    The file itself is read when the supervisor asks for it, which is at SIGHUP, and with the
    settings.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked, seen, first = False, None, True
    while True:
        now = _stamp(where)  # first, so that what changes while it is read is read again
        if asked or first or now != seen:
            found, place = look(path, where)
            control.sendall(json.dumps({**found, "asked": asked}).encode() + b"\n")
            first = place != where
            seen, where = now, place
        asked = bool(select.select([control], [], [], LOOK_SECONDS)[0])
        if asked and not control.recv(4096):
            return


def look(path: Path, where: Path) -> tuple[dict[str, Any], Path]:
    """The configuration, or errors, as the supervisor hears them; and where its settings are."""
    try:
        loaded = read(path)
    except ConfigInvalid as invalid:
        return {"errors": [str(error) for error in invalid.errors]}, where
    place = path_of(loaded.file.config)
    if loaded.problem:
        return {"errors": [loaded.problem]}, place
    config = loaded.config.model_dump(mode="json")
    return {"errors": [], "config": config, "version": loaded.settings.version}, place


def _stamp(path: Path) -> _Stamp:
    """What differs when a file has been replaced or written; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
