"""The track files by which keepalived is asked to give VIPs up; this process alone writes them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from api.views import DrainView
from appliance.health.report import TrackFile

log = logging.getLogger(__name__)

_DRAINED = -100
"""Less than a healthy node has, more than one with a hung collector."""


class DrainFiles:
    """``drain`` for the whole node and ``drain-<vip>`` for one VIP, each with 0 or -100."""

    def __init__(self, folder: Path | None, vips: Iterable[str]) -> None:
        """``folder``: None for a node that is alone, which has nobody to give way to."""
        self._lock = threading.Lock()
        self._state: dict[str | None, bool] = {None: False} | dict.fromkeys(vips, False)
        self._files: dict[str | None, TrackFile] = {}
        if folder is not None:
            for vip in self._state:
                path = folder / ("drain" if vip is None else f"drain-{vip}")
                self._files[vip] = TrackFile(path)
                self._state[vip] = _begin(self._files[vip], path)

    @property
    def view(self) -> DrainView:
        """What is asked for."""
        vips = [vip for vip, drained in self._state.items() if vip is not None and drained]
        return DrainView(node=self._state[None], vips=vips)

    def set(self, vip: str | None, drained: bool) -> None:
        """Ask for it, or no longer; ``vip``: None for all. Raises OSError."""
        with self._lock:
            if vip in self._files:
                self._files[vip].write(_DRAINED if drained else 0)
            self._state[vip] = drained


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
