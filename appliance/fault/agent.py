"""``python -m appliance.fault``: makes a fault when asked, and ends it in time, whatever happens.

One line of JSON from a client at the socket, one line back:

    {"ask": "state"}                                  what can be done, and what is done now
    {"ask": "do", "kind": "partition", "seconds": 5}  do it; it is undone after so long. With
                                                      "at_ns", a moment ahead, only then
    {"ask": "undo"}                                   undo it now

Answers have ``error`` where it was not done. What is to be undone is on disk before it is done; a
process that starts undoes what it finds there.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final, cast

from appliance.config_drill import DrillKind
from appliance.fault.verbs import FaultFailed, Verb
from appliance.receive.systemd import notify, watchdog
from appliance.store.durable import replace_file, sync_directory

log = logging.getLogger(__name__)

MOST_SECONDS: Final = 300.0
"""Of a fault."""
_AHEAD_SECONDS: Final = 2.0
_ACTIVE_FILE: Final = "active.json"
_CLIENT_SECONDS: Final = 1.0
_TURN_SECONDS: Final = 1.0
"""Between attempts to undo what could not be undone, and between signs of life."""
_MOST_BYTES: Final = 4096


class Agent:
    """Faults of this node: one at a time, each with an end."""

    def __init__(self, verbs: dict[DrillKind, Verb], folder: Path) -> None:
        """``folder``: where what is to be undone is kept; undoes what a process before has left."""
        self._verbs = verbs
        self._file = folder / _ACTIVE_FILE
        self.kind: DrillKind | None = self._left()
        """The fault there is now."""
        self.until = 0.0
        """By the steady clock."""

    def _left(self) -> DrillKind | None:
        try:
            kind = json.loads(self._file.read_bytes())["kind"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            # nobody knows what it was: whatever there is, nothing of it may stay
            log.error("%s cannot be used", self._file)
            kind = None
        if kind in self._verbs:
            return cast(DrillKind, kind)
        for verb in self._verbs.values():
            if verb.undo is not None:
                with suppress(FaultFailed):
                    verb.undo.run()
        self._file.unlink(missing_ok=True)
        return None

    def do(self, kind: str, seconds: float, at_ns: int = 0) -> int:
        """Make a fault, not before ``at_ns``; when that was. Raises :class:`FaultFailed`."""
        verb = self._verbs.get(cast(DrillKind, kind))
        if verb is None:
            known = ", ".join(self._verbs) or "nothing"
            raise FaultFailed(f"{kind} cannot be done here, or is forbidden; allowed: {known}")
        if self.kind is not None:
            raise FaultFailed(f"{self.kind} is not undone yet")
        if not 0 < seconds <= MOST_SECONDS:
            raise FaultFailed(f"a fault lasts {MOST_SECONDS:g} s at most")
        if (ahead := (at_ns - time.time_ns()) / 1e9) > _AHEAD_SECONDS:
            raise FaultFailed(f"{_AHEAD_SECONDS:g} s ahead at most")
        if verb.undo is None:
            time.sleep(max(ahead, 0.0))
            time_ns = time.time_ns()
            verb.do.run()
            return time_ns
        try:
            replace_file(self._file, json.dumps({"kind": kind}).encode() + b"\n")
        except OSError as error:
            raise FaultFailed(f"{self._file} cannot be written: {error.strerror}") from None
        self.kind, self.until = cast(DrillKind, kind), time.monotonic() + seconds
        log.warning("%s for %g s", kind, seconds)
        time.sleep(max((at_ns - time.time_ns()) / 1e9, 0.0))
        time_ns = time.time_ns()
        try:
            verb.do.run()
        except FaultFailed:
            self.until = 0.0  # perhaps it is done in part
            raise
        return time_ns

    def undo(self) -> int:
        """End the fault, if there is one; when that was. Raises :class:`FaultFailed`."""
        time_ns = time.time_ns()
        if self.kind is None:
            return time_ns
        undo = self._verbs[self.kind].undo
        assert undo is not None
        undo.run()
        self._file.unlink(missing_ok=True)
        sync_directory(self._file.parent)
        log.warning("%s is undone", self.kind)
        self.kind = None
        return time_ns

    def tick(self) -> float:
        """End what is due; seconds until that is to be asked again."""
        if self.kind is None:
            return _TURN_SECONDS
        left = self.until - time.monotonic()
        if left > 0:
            return min(left, _TURN_SECONDS)
        try:
            self.undo()
        except FaultFailed as failed:
            log.error("%s cannot be undone, and is tried again: %s", self.kind, failed)
        return _TURN_SECONDS

    def answer(self, request: Any) -> dict[str, Any]:
        """The answer to a request."""
        try:
            ask = request["ask"]
            if ask == "do":
                kind, seconds = str(request["kind"]), float(request["seconds"])
                return {"time_ns": self.do(kind, seconds, int(request.get("at_ns", 0)))}
            if ask == "undo":
                return {"time_ns": self.undo()}
            if ask == "state":
                left = max(self.until - time.monotonic(), 0.0) if self.kind else None
                return {"kinds": list(self._verbs), "active": self.kind, "seconds_left": left}
        except FaultFailed as failed:
            return {"error": str(failed)}
        except (KeyError, TypeError, ValueError):
            pass
        return {"error": "no such request"}


def serve(agent: Agent, path: Path) -> None:
    """Answer at the socket ``path`` until SIGTERM; a fault ends with this process."""
    stopped, stop = socket.socketpair()

    def end(number: int, frame: FrameType | None) -> None:
        stop.send(b".")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        umask = os.umask(0o117)
        try:
            sock.bind(str(path))
        finally:
            os.umask(umask)
        sock.listen(8)
        notify("READY=1")
        try:
            while True:
                ready, _, _ = select.select([sock, stopped], [], [], agent.tick())
                watchdog()
                if stopped in ready:
                    return
                if ready:
                    with suppress(OSError):
                        _serve_one(agent, sock)
        finally:
            path.unlink(missing_ok=True)
            with suppress(FaultFailed):
                agent.undo()


def _serve_one(agent: Agent, sock: socket.socket) -> None:
    client, _ = sock.accept()
    with client:
        client.settimeout(_CLIENT_SECONDS)
        data = b""
        while not data.endswith(b"\n"):
            part = client.recv(_MOST_BYTES)
            data += part
            if not part or len(data) > _MOST_BYTES:
                return
        try:
            request = json.loads(data)
        except ValueError:
            request = None
        client.sendall(json.dumps(agent.answer(request)).encode() + b"\n")
