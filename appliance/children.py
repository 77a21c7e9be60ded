"""Child processes of the supervisor: how they begin, end, and are told apart."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.receive.sockets import ListenError
from appliance.store.durable import locked

log = logging.getLogger(__name__)

STOP_SECONDS = 30.0
LOCK_SECONDS = 3.0
"""How long the children of a collector that was killed may take to be gone."""
_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(slots=True)
class Child:
    """A worker process, or (without shards) another one."""

    pid: int
    control: socket.socket | None
    shards: set[int] = field(default_factory=set)
    report: dict[str, Any] = field(default_factory=dict)
    load: float = 0.0
    """Share of one processor used since the report before."""
    behind: int = 0
    """Reports in a row with a lag above GROW_LAG_SECONDS."""
    line: bytes = b""
    takes: tuple[Child, set[int], bool] | None = None
    """Once it is ready: the worker to take shards from, which ones, and whether that then ends."""
    started: float = field(default_factory=time.monotonic)
    heard: float = 0.0
    """When it last said anything (monotonic seconds)."""
    generation: int = 0
    """Of the configuration that it was started with."""
    ending: bool = False
    """It was told to end, so that another can begin."""

    def messages(self) -> list[dict[str, Any]]:
        """What it has said, as far as its lines are whole."""
        assert self.control is not None
        try:
            data = self.control.recv(1 << 20)
        except ConnectionResetError:
            return []
        self.heard = time.monotonic()
        *lines, self.line = (self.line + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def order(self, order: dict[str, Any]) -> None:
        """Tell it what to do; if it has died, the SIGCHLD on its way says so."""
        assert self.control is not None
        with suppress(BrokenPipeError):
            self.control.sendall(json.dumps(order).encode() + b"\n")


def fork(body: Callable[[], None], control: socket.socket | None) -> Child:
    """Run ``body`` in a child process, which ends with it, or with this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    # a signal to the child that comes before its handlers are its own must wait for them
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return Child(pid, control)
    status = 1
    try:
        # no orphans: a supervisor that is killed takes its children with it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        body()
        status = 0
    except BaseException:
        log.exception("process %d failed", os.getpid())
    finally:
        logging.shutdown()
        os._exit(status)


def wait_for(pid: int) -> None:
    """Reap ``pid``, which was told to end; kill it when it does not."""
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.01)
    log.error("process %d does not end; killing it", pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def how(status: int) -> str:
    """A wait status in words."""
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit status {os.WEXITSTATUS(status)}"


def check_writable(data_dir: Path) -> None:
    """Make the data directory; ListenError when this user may not write all that it has to."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        found = [data_dir, *data_dir.glob("*"), *data_dir.glob("shards/*"), *data_dir.glob("*/*")]
        found += [*data_dir.glob("shards/*/journal"), *data_dir.glob("shards/*/lock")]
    except OSError as error:
        raise ListenError(
            f"cannot use {error.filename or data_dir}: {error.strerror}; set another data_dir"
        ) from error
    for path in found:
        needed = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
        if (path.is_dir() or path.name == "lock") and not os.access(path, needed):
            user = os.geteuid()
            raise ListenError(
                f"{path} cannot be written by user {user}: chown -R {user} {data_dir}, "
                "or set another data_dir"
            )


RESTART_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Waits before a child that died is started again; the last one repeats."""


class Restarts:
    """What has died and is to be started again, and when."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[[], object]]] = []
        """Monotonic seconds, and what to call then."""
        self._deaths: Counter[str] = Counter()
        """Children that ended soon after their start, in a row, by kind."""

    def again(self, kind: str, ended: Child, status: int, start: Callable[[], object]) -> None:
        """Call ``start``, later each time when what it starts never lives for long."""
        brief = status != 0 and time.monotonic() - ended.started < 60
        self._deaths[kind] = self._deaths[kind] + 1 if brief else 0
        last = len(RESTART_SECONDS)
        wait = RESTART_SECONDS[min(self._deaths[kind], last) - 1] if brief else 0.0
        log.error("%s %d ended (%s); another in %.1f s", kind, ended.pid, how(status), wait)
        self.due.append((time.monotonic() + wait, start))

    def start_due(self) -> None:
        """Start what it is time for."""
        now = time.monotonic()
        due = [one for one in self.due if one[0] <= now]
        self.due = [one for one in self.due if one[0] > now]
        for _, start in due:
            start()


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for one collector; ListenError when another has it."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        with locked(data_dir / "lock", wait=False) as alone:
            if alone:
                yield
                return
        if time.monotonic() > deadline:
            raise ListenError(
                f"another collector uses {data_dir}: stop it, or set another data_dir"
            )
        time.sleep(0.05)
