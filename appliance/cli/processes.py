"""Child processes of ``tandem run``: forked, so that they have its configuration, and not more."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


class Children:
    """The processes, and what they write to stdout and stderr.

    Each has a process group of its own: Ctrl-C reaches only the parent, which then asks them to
    end. If the parent is killed, they get SIGTERM.
    """

    def __init__(self, capture: bool) -> None:
        """``capture``: keep what they write for :meth:`messages`; else it goes where ours does."""
        self._names: dict[int, str] = {}
        self._status: dict[str, int] = {}
        self._read, self._write = os.pipe() if capture else (-1, -1)
        self._rest = b""
        if capture:
            os.set_blocking(self._read, False)

    def start(self, name: str, body: Callable[[], int]) -> None:
        """Fork a child that exits with what ``body`` returns."""
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self._names[pid] = name
            return
        status = 1
        try:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before the call
                os._exit(1)
            if self._write >= 0:
                os.dup2(self._write, 1)
                os.dup2(self._write, 2)
            status = body()
        except SystemExit as leave:
            status = leave.code if isinstance(leave.code, int) else 1
        except BaseException as error:
            os.write(2, f"the {name} failed: {error!r}\n".encode())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def ended(self) -> dict[str, int]:
        """Exit statuses (negative: signals) of the children that are no more, by name."""
        for pid in list(self._names):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._status[self._names.pop(pid)] = os.waitstatus_to_exitcode(status)
        return dict(self._status)

    def messages(self) -> list[str]:
        """Whole lines that were captured since the last call."""
        if self._read < 0:
            return []
        while select.select([self._read], [], [], 0)[0]:
            try:
                data = os.read(self._read, 65536)
            except BlockingIOError:
                break
            if not data:
                break
            self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def stop(self, seconds: float) -> None:
        """Ask all to end, wait, and kill what does not."""
        for pid in self._names:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while self._names and time.monotonic() < deadline:
            self.ended()
            time.sleep(0.02)
        for pid, name in list(self._names.items()):
            os.kill(pid, signal.SIGKILL)
            self._status[name] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._names.clear()
