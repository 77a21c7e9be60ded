"""The track files by which keepalived is asked to give VIPs up; this process alone writes them."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Container, Iterable
from pathlib import Path

from api.views import DrainView
from appliance.health.report import TrackFile
from appliance.store.durable import replace_file

log = logging.getLogger(__name__)

_DRAINED = -100
"""Less than a healthy node has, more than one with a hung collector."""


_UNTIL_FILE = "drain-until.json"
_NODE = ""
"""Of all VIPs, in that file."""


class DrainFiles:
    """``drain`` for the whole node and ``drain-<vip>`` for one VIP, each with 0 or -100.

    A drain may be given an end. It is written before the drain is, so whatever happens to this
    process, the next one ends the drain in time.
    """

    def __init__(self, folder: Path | None, vips: Iterable[str]) -> None:
        """``folder``: None for a node that is alone, which has nobody to give way to."""
        self._lock = threading.Lock()
        self._state: dict[str | None, bool] = {None: False} | dict.fromkeys(vips, False)
        self._files: dict[str | None, TrackFile] = {}
        self._until: dict[str | None, int] = {}
        self._until_file = folder / _UNTIL_FILE if folder is not None else None
        if folder is not None:
            for vip in self._state:
                path = folder / ("drain" if vip is None else f"drain-{vip}")
                self._files[vip] = TrackFile(path)
                self._state[vip] = _begin(self._files[vip], path)
            self._until = _read(folder / _UNTIL_FILE, self._state)

    @property
    def view(self) -> DrainView:
        """What is asked for."""
        vips = [vip for vip, drained in self._state.items() if vip is not None and drained]
        return DrainView(node=self._state[None], vips=vips)

    def until_ns(self, vip: str | None) -> int | None:
        """When the drain of ``vip`` ends by itself; None: never."""
        return self._until.get(vip)

    def due(self, now_ns: int) -> bool:
        """Whether a drain is to end by now."""
        return any(until <= now_ns for until in self._until.values())

    def end_due(self, now_ns: int) -> None:
        """End the drains that are to end by now. Raises OSError."""
        for vip, until in list(self._until.items()):
            if until <= now_ns:
                log.warning("the drain of %s ends by itself", vip or "the node")
                self.set(vip, False)

    def set(self, vip: str | None, drained: bool, until_ns: int | None = None) -> int:
        """Ask for it, or no longer; when that was. ``vip``: None for all. Raises OSError."""
        with self._lock:
            if drained:
                self._keep_until(vip, until_ns)
            now_ns = time.time_ns()
            if vip in self._files:
                self._files[vip].write(_DRAINED if drained else 0)
            self._state[vip] = drained
            if not drained:
                self._keep_until(vip, None)
        return now_ns

    def _keep_until(self, vip: str | None, until_ns: int | None) -> None:
        if self._until.get(vip) == until_ns:
            return
        changed = {v: u for v, u in self._until.items() if v != vip}
        if until_ns is not None:
            changed[vip] = until_ns
        if self._until_file is not None:
            text = json.dumps({v or _NODE: u for v, u in changed.items()})
            replace_file(self._until_file, text.encode() + b"\n")
        self._until = changed


def _begin(file: TrackFile, path: Path) -> bool:
    """What the file says; it is made where it is missing, or no number."""
    try:
        value = file.read()
        if value is None:
            file.write(0)
    except OSError as error:
        log.error("%s cannot be used: %s", path, error.strerror)
        return False
    return bool(value)


def _read(path: Path, known: Container[str | None]) -> dict[str | None, int]:
    """When drains end; those of VIPs that are no more are forgotten."""
    try:
        found = json.loads(path.read_bytes())
        ends = {vip or None: int(until) for vip, until in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.error("%s cannot be used: %s; drains stay until they are undone", path, error)
        return {}
    return {vip: until for vip, until in ends.items() if vip in known}
