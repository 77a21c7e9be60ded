"""Child processes of the supervisor: how they begin, end, and are told apart."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """A worker process, or (without shards) the maintenance process."""

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
