"""keepalived's own opinion, from its notify FIFO; whether it runs, from its PID file."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

_PERIOD = 1.0
_LINE = re.compile(r'(INSTANCE|GROUP) "([^"]+)" ([A-Z_]+)(?: \d+)?')
_STATES = ("FAULT", "STOP", "DELETED", "BACKUP", "MASTER")
"""By how little they promise: of several, the first is the opinion."""
_LONGEST = 4096
"""Bytes of a line; more without an end is no line."""

Heard = Callable[[str, str], None]
"""Called with the VIP and the word of a line."""


class Keepalived:
    """Follows keepalived on the event loop. It never writes to the FIFO, and can come later."""

    def __init__(self, fifo: Path, pid_file: Path, heard: Heard) -> None:
        self._fifo = fifo
        self._pid_file = pid_file
        self._heard = heard
        self._fd = -1
        self._rest = b""
        self._states: dict[str, dict[str, str]] = {}
        self.lower_priority: Counter[str] = Counter()
        """How often, by VIP, another master of lower priority was heard."""
        self.up: bool | None = None
        self.problem = "not looked at yet"
        self.listening = False
        """Whether the FIFO is open."""

    def opinion(self, vip: str) -> str | None:
        """The state that keepalived said last: MASTER, BACKUP, FAULT; None: it said nothing."""
        said = self._states.get(vip)
        if not said or self.up is False:
            return None
        return min(said.values(), key=_STATES.index)

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            while True:
                self._look()
                await asyncio.sleep(_PERIOD)
        finally:
            self._close()

    def _look(self) -> None:
        self.up, self.problem = _alive(self._pid_file)
        try:
            found = os.stat(self._fifo)
        except OSError:
            self._close()
            return
        if self._fd >= 0 and os.path.samestat(os.fstat(self._fd), found):
            return
        self._close()
        if not stat.S_ISFIFO(found.st_mode):
            return
        try:
            # for writing, too: so it never ends, whoever comes and goes at the other end
            self._fd = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            log.warning("%s: %s", self._fifo, error.strerror)
            return
        self.listening = True
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
        self._fd, self._rest, self.listening = -1, b"", False

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            self._close()
            return
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) <= _LONGEST else b""
        for line in lines:
            self.take(line.decode(errors="replace"))

    def take(self, line: str) -> None:
        """Note one line; what is none of keepalived's is ignored."""
        match = _LINE.fullmatch(line.strip())
        if match is None:
            return
        kind, name, word = match.groups()
        vip = name if kind == "GROUP" else re.sub(r"-[46]$", "", name)
        if word in _STATES:
            self._states.setdefault(vip, {})[f"{kind} {name}"] = word
        elif word == "MASTER_RX_LOWER_PRI":
            self.lower_priority[vip] += 1
        self._heard(vip, word)


def _alive(pid_file: Path) -> tuple[bool | None, str]:
    """Whether the process that the file names is keepalived; if not, why."""
    try:
        pid = int(pid_file.read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return False, "keepalived does not run"
    except ValueError:
        return None, f"{pid_file} has no process's number"
    except OSError as error:
        return None, f"{pid_file}: {error.strerror}"
    if name != "keepalived":
        return False, "keepalived does not run"
    return True, ""
