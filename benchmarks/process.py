"""Running one collector: its CPU time, memory and losses, and its certain end.

A collector may fork. Its descendants that lose their parent become ours (PR_SET_CHILD_SUBREAPER),
so that what wait4(2) says adds up to the CPU time of them all, and none is left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PR_SET_CHILD_SUBREAPER = 36
CPUCLOCK_SCHED = 2
START_SECONDS = 30
STOP_SECONDS = 60
IDLE_SECONDS = 0.6
"""A collector that uses no more than 5 % of a processor for so long has done its work."""


class CollectorError(Exception):
    """A collector did not start, or went away; the text has what it said."""


class Collector:
    """A running collector that listens on a UDP port of 127.0.0.1."""

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._command = " ".join(command)
        self._log = log
        self.port = port
        self._cpu_before = 0.0
        self.cpu_seconds = 0.0
        """User and system time from :meth:`ready` on; whole after :meth:`stop`."""
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self._members = {self._process.pid}

    def ready(self) -> None:
        """Wait until it listens and has come to rest; CPU time counts from here."""
        deadline = time.monotonic() + START_SECONDS
        while not udp_sockets(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise CollectorError(f"{self._command}: {self._said()}")
            time.sleep(0.05)
        self.settle(START_SECONDS)
        self._cpu_before = self._cpu()

    def settle(self, seconds: float) -> float:
        """Wait, at most ``seconds``, until it has nothing more to do; returns what that took."""
        begun = rest = time.monotonic()
        before = self._cpu()
        while (now := time.monotonic()) - begun < seconds and now - rest < IDLE_SECONDS:
            time.sleep(IDLE_SECONDS / 4)
            used = self._cpu()
            if used - before > 0.05 * IDLE_SECONDS / 4 or waiting_bytes(self.port):
                rest = time.monotonic()
            before = used
        if self._process.poll() is not None:
            raise CollectorError(f"{self._command}: {self._said()}")
        return rest - begun

    def cpu(self) -> float:
        """User and system seconds since :meth:`ready`."""
        return self._cpu() - self._cpu_before

    def resident_bytes(self) -> int:
        """Resident memory of it and its descendants; shared pages count for each."""
        total = 0
        for pid in self._family():
            with contextlib.suppress(OSError, ValueError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
        return total

    def dropped(self) -> int:
        """Datagrams that the kernel dropped because a socket of the port was full."""
        return sum(drops for _, drops in udp_sockets(self.port))

    def stop(self, number: signal.Signals) -> None:
        """End it and all its descendants, by force after a minute; completes ``cpu_seconds``."""
        total = 0.0
        deadline = time.monotonic() + STOP_SECONDS
        left = self._family()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)
        while left:
            if time.monotonic() > deadline:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
            for pid in left:
                # those whose parent lives are not ours to wait for: the parent's usage has them
                with contextlib.suppress(ChildProcessError):
                    ended, status, usage = os.wait4(pid, os.WNOHANG)
                    total += usage.ru_utime + usage.ru_stime
                    if ended == self._process.pid:
                        self._process.returncode = os.waitstatus_to_exitcode(status)
            left = self._family()
        self.cpu_seconds = max(total - self._cpu_before, 0.0)

    def _said(self) -> str:
        return self._log.read_text(errors="replace")[-2000:].strip() or "it said nothing"

    def _family(self) -> list[int]:
        """It and its descendants, orphans included, as far as they live or wait to be reaped."""
        parents: dict[int, int] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parent = path.read_text().rpartition(")")[2].split()[1]
                parents[int(path.parent.name)] = int(parent)
        members = {pid for pid in self._members if pid in parents}
        while True:
            further = {pid for pid, parent in parents.items() if parent in members} - members
            if not further:
                break
            members |= further
        self._members = members
        return sorted(members)

    def _cpu(self) -> float:
        """User and system seconds of the family, with those of its ended members."""
        total = 0.0
        for pid in self._family():
            with contextlib.suppress(OSError, IndexError):
                total += time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)  # clock_getcpuclockid(3)
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[13]) + int(fields[14])) * TICK
        return total


@contextlib.contextmanager
def running(
    command: list[str], port: int, log: Path, end: signal.Signals = signal.SIGTERM
) -> Iterator[Collector]:
    """A ready collector; it is stopped by ``end``, whatever happens."""
    collector = Collector(command, port, log)
    try:
        collector.ready()
        yield collector
    finally:
        collector.stop(end)


def free_port() -> int:
    """A UDP port of 127.0.0.1 that nothing has now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def udp_sockets(port: int) -> list[tuple[int, int]]:
    """(bytes that wait, datagrams dropped) of each UDP socket that is bound to ``port``."""
    found = []
    for table in ("udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(f":{port:04X}"):
                found.append((int(fields[4].partition(":")[2], 16), int(fields[-1])))
    return found


def waiting_bytes(port: int) -> int:
    """Bytes in the receive buffers of ``port``."""
    return sum(waiting for waiting, _ in udp_sockets(port))


def machine() -> str:
    """Processor, kernel and memory in one line."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE / 2**30
    system = os.uname()
    return (
        f"{model[1] if model else system.machine}, {os.cpu_count()} processors, "
        f"{memory:.0f} GiB, {system.sysname} {system.release}"
    )
