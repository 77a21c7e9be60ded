"""The collector's first process: it owns the sockets, and gives shards to worker processes.

Sockets outlive workers, because they are made here (or handed over by the service manager, and kept
in its file-descriptor store), so that a worker may die, be replaced, or give a shard to another,
and nothing is lost while the kernel's buffers hold. A shard is a socket of every listener, a
journal and a state of its own; moving it is what grows and shrinks the number of workers.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance import __version__, node_file
from appliance.children import Child, check_writable, fork, how, only_one, wait_for
from appliance.config import Config, ConfigInvalid, load
from appliance.health import canary
from appliance.health.pulse import PULSE_FILE, Pulse
from appliance.health.state_socket import SOCKET_FILE, StateSocket
from appliance.receive import capabilities, systemd
from appliance.receive.listeners import Listeners, open_listeners
from appliance.receive.sockets import ListenError

log = logging.getLogger(__name__)

RESTART_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Waits before a worker that died is started again; the last one repeats."""
GROW_LAG_SECONDS = 1.0
"""A worker that decodes this much later than the flush wants it, for two reports in a row, gives
shards away."""
SHRINK_AFTER_SECONDS = 60.0
SILENT_SECONDS = 30.0
"""A worker that reports nothing for so long, with no shard to recover or to hand over, hangs: it is
killed, and another gets its shards."""
SHRINK_LOAD = 0.3
"""Workers that together use less than this share of one worker's time become one fewer."""


class Supervisor:
    """Runs the collector until SIGTERM or SIGINT."""

    def __init__(self, config: Config, path: Path | None = None) -> None:
        """``path``: the file to read again at SIGHUP."""
        self.config = config
        self.path = path
        self.data_dir = Path(config.data_dir)
        self.listeners = Listeners()
        self.workers: list[Child] = []
        self.maintenance: Child | None = None
        self.moving: dict[int, Child] = {}
        """Shards on their way: to whom they go once they are released."""
        self.pulse: Pulse | None = None
        self.state_socket: StateSocket | None = None
        self.deaths: Counter[str] = Counter()
        """Children that ended soon after their start, in a row, by kind."""
        self.started_ns = time.time_ns()
        self._quiet_since = time.monotonic()
        self._not_before = 0.0
        self._stopping = False
        self._reload = False
        self._signals = os.pipe()
        self._due: list[tuple[float, Callable[[], object]]] = []
        """What to start later, and when (monotonic seconds)."""

    def run(self) -> int:
        """Open, serve, stop; returns the exit status. Raises ListenError."""
        check_writable(self.data_dir)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        with only_one(self.data_dir):
            self.listeners = open_listeners(self.config, systemd.listen_fds())
            capabilities.drop()  # large receive buffers were all that they are for
            self._open_health()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, self._on_signal)
            os.set_blocking(self._signals[0], False)
            os.set_blocking(self._signals[1], False)
            signal.set_wakeup_fd(self._signals[1], warn_on_full_buffer=False)
            self._start_workers()
            systemd.notify("READY=1")
            try:
                self._loop()
            finally:
                systemd.notify("STOPPING=1")
                self._stop()
        return 0

    def _open_health(self) -> None:
        """Make what ``tandem health`` and the API look at, if the configuration asks for it."""
        if self.config.health is None:
            return
        directory = Path(self.config.health.directory)
        canary.make_key(self.data_dir)
        try:
            self.pulse = Pulse.create(
                directory / PULSE_FILE, self.config.receive.shards, len(self.listeners.groups)
            )
            self.state_socket = StateSocket(directory / SOCKET_FILE)
        except OSError as error:
            raise ListenError(
                f"cannot use {directory}: {error.strerror}; make it writable for this user, "
                "or set another directory in [health]"
            ) from error

    # workers

    def _start_workers(self) -> None:
        count = self.config.receive.min_workers
        shards = range(self.config.receive.shards)
        for w in range(count):
            mine = {k for k in shards if k % count == w}
            # what a configuration with more shards has left is decoded and stored once
            self._start_worker(mine | leftover(self.data_dir, len(shards)) if w == 0 else mine)
        self._start_maintenance()

    def _start_maintenance(self) -> None:
        self.maintenance = fork(self._maintain, None)

    def _start_worker(self, shards: set[int]) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

        def body() -> None:
            ours.close()
            self._close_controls()
            from appliance.worker import Worker

            Worker(self.config, self.listeners, theirs, self.pulse).run()

        child = fork(body, ours)
        theirs.close()
        self.workers.append(child)
        self._serve(child, shards)
        return child

    def _close_controls(self) -> None:
        """In a child: a worker must see the end of its supervisor, whoever else is left."""
        if self.state_socket is not None:
            self.state_socket.close()
        for worker in self.workers:
            if worker.control is not None:
                worker.control.close()

    def _maintain(self) -> None:
        self._close_controls()
        os.nice(10)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from appliance.store.maintenance import run

        run(self.config)

    def _serve(self, worker: Child, shards: set[int]) -> None:
        worker.shards |= shards
        if shards:
            self._order(worker, {"serve": sorted(shards)})

    def _order(self, worker: Child, order: dict[str, Any]) -> None:
        try:
            assert worker.control is not None
            worker.control.sendall(json.dumps(order).encode() + b"\n")
        except BrokenPipeError:
            pass  # it died; the SIGCHLD on its way says so

    def _on_signal(self, number: int, frame: object) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stopping = True
        elif number == signal.SIGHUP:
            self._reload = True

    # the loop

    def _loop(self) -> None:
        written = 0.0
        while not self._stopping:
            by_fd = {w.control.fileno(): w for w in self.workers if w.control is not None}
            wait = 0.1 if self._due or self._reload else 0.5
            asked = [] if self.state_socket is None else [self.state_socket.fileno()]
            readable, _, _ = select.select([self._signals[0], *asked, *by_fd], [], [], wait)
            for fd in readable:
                if fd == self._signals[0]:
                    os.read(fd, 4096)
                elif fd in asked and self.state_socket is not None:
                    self.state_socket.answer(self._document)
                else:
                    self._hear(by_fd[fd])
            self._reap()
            self._start_due()
            # one after the other: shards that are on their way have no place yet
            if self._reload and not self.moving and not any(w.takes for w in self.workers):
                self._reload = False
                self._load_again()
            if time.monotonic() - written >= 1.0:
                written = time.monotonic()
                self._balance_workers()
                self._end_silent()
                node_file.write(self.data_dir, self._document())
                systemd.watchdog()

    def _hear(self, worker: Child) -> None:
        assert worker.control is not None
        try:
            data = worker.control.recv(1 << 20)
        except ConnectionResetError:
            return
        worker.heard = time.monotonic()
        worker.line += data
        *lines, worker.line = worker.line.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "ready" in message:
                self._take_over(worker)
                continue
            if "drained" in message:
                for k in message["drained"]:
                    worker.shards.discard(k)
                    self.moving.pop(k, None)
                continue
            if "released" in message:
                for k in message["released"]:
                    worker.shards.discard(k)
                    target = self.moving.pop(k, None)
                    if target is None or target not in self.workers:
                        target = min(self.workers, key=lambda w: len(w.shards))
                    self._serve(target, {k})
                continue
            spent = message["cpu_seconds"] - worker.report.get("cpu_seconds", 0.0)
            worker.load = spent / max(message["interval_seconds"], 0.001)
            worker.report = message

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if self.maintenance is not None and pid == self.maintenance.pid:
                ended, self.maintenance = self.maintenance, None
                self._start_again("maintenance", ended, status, self._start_maintenance)
            for worker in [w for w in self.workers if w.pid == pid]:
                self._replace(worker, status)

    def _replace(self, worker: Child, status: int) -> None:
        """A worker ended. If it had shards, another gets them; the journals have what it had."""
        self.workers.remove(worker)
        if worker.control is not None:
            worker.control.close()
        for k in worker.shards:
            self.moving.pop(k, None)
        if worker.shards:
            shards = worker.shards
            self._start_again("worker", worker, status, lambda: self._start_worker(shards))

    def _start_again(
        self, kind: str, ended: Child, status: int, start: Callable[[], object]
    ) -> None:
        """Call ``start``, later each time when what it starts never lives for long."""
        brief = status != 0 and time.monotonic() - ended.started < 60
        self.deaths[kind] = self.deaths[kind] + 1 if brief else 0
        wait = RESTART_SECONDS[min(self.deaths[kind], len(RESTART_SECONDS)) - 1] if brief else 0.0
        log.error("%s %d ended (%s); another in %.1f s", kind, ended.pid, how(status), wait)
        self._due.append((time.monotonic() + wait, start))

    def _start_due(self) -> None:
        now = time.monotonic()
        due = [one for one in self._due if one[0] <= now]
        self._due = [one for one in self._due if one[0] > now]
        for _, start in due:
            start()

    def _end_silent(self) -> None:
        """Kill workers that hang; what then happens is what happens when they die."""
        for worker in self.workers:
            # while it recovers a shard it cannot report; nor while it brings one to its end that it
            # gives up, which takes as long as there is in the journal
            reported = {int(k) for k in worker.report.get("shards", ())}
            recovers = not worker.report or reported != worker.shards
            limit = SILENT_SECONDS * (10 if self.moving else 1)
            silent = time.monotonic() - worker.heard
            if not recovers and silent > limit:
                log.error("worker %d says nothing for %.0f s", worker.pid, silent)
                os.kill(worker.pid, signal.SIGKILL)

    def _balance_workers(self) -> None:
        """Grow when a worker stays behind, shrink when all of them have little to do."""
        receive = self.config.receive
        if self.moving or time.monotonic() < self._not_before:
            return
        for idle in [w for w in self.workers if not w.shards and w.takes is None]:
            self._order(idle, {"stop": True})  # those whose shards it was to get have died
        for worker in self.workers:
            shards = worker.report.get("shards", {})
            lag = max((s["lag_seconds"] for s in shards.values()), default=0.0)
            usual = self.config.store.flush_seconds + GROW_LAG_SECONDS
            worker.behind = worker.behind + 1 if lag > usual else 0
        busiest = max(self.workers, key=lambda w: (w.behind, w.load), default=None)
        if busiest is None:
            return
        if busiest.behind >= 2 and len(busiest.shards) > 1:
            self._quiet_since = time.monotonic()
            if len(self.workers) < receive.max_workers:
                self._grow(busiest)
            return
        if sum(w.load for w in self.workers) > SHRINK_LOAD:
            self._quiet_since = time.monotonic()
        quiet = time.monotonic() - self._quiet_since
        if len(self.workers) > receive.min_workers and quiet > SHRINK_AFTER_SECONDS:
            self._shrink()

    def _grow(self, busiest: Child) -> None:
        shards = busiest.report.get("shards", {})
        # shard 0 has the TCP sessions, and stays; every second of the others by load moves
        order = sorted(
            busiest.shards - {0}, key=lambda k: -shards.get(str(k), {}).get("lag_datagrams", 0)
        )
        move = set(order[::2])
        child = self._start_worker(set())
        child.takes = busiest, move, False
        log.info("worker %d is behind: shards %s move to %d", busiest.pid, sorted(move), child.pid)
        self._not_before = time.monotonic() + 5.0

    def _shrink(self) -> None:
        last = self.workers[-1]
        if 0 in last.shards or not last.shards:
            return
        first = self.workers[0]
        log.info("little to do: worker %d gives %s to %d", last.pid, last.shards, first.pid)
        self._move(last, first, set(last.shards))
        self._order(last, {"stop": True})
        self._quiet_since = time.monotonic()

    def _take_over(self, worker: Child) -> None:
        """``worker`` is ready: only now its shards leave the one that has them."""
        if worker.takes is None:
            return
        source, shards, ends = worker.takes
        worker.takes = None
        if source in self.workers:
            self._move(source, worker, shards & source.shards)
            if ends:
                self._order(source, {"stop": True})
        elif not worker.shards:
            # the source died, and what replaced it has its shards
            self._order(worker, {"stop": True})

    def _move(self, source: Child, target: Child, shards: set[int]) -> None:
        self.moving.update(dict.fromkeys(shards, target))
        self._order(source, {"release": sorted(shards)})
        self._not_before = time.monotonic() + 5.0

    # configuration, state, end

    def _load_again(self) -> None:
        if self.path is None:
            return
        try:
            config = load(self.path)
        except ConfigInvalid as invalid:
            for error in invalid.errors:
                log.error("%s", error)
            log.error("the configuration in force stays")
            return
        fixed = ("data_dir", "node", "listener", "receive")
        for key in fixed:
            if getattr(config, key) != getattr(self.config, key):
                log.error("%s: %s cannot change without a restart", self.path, key)
                return
        log.info("%s: read again", self.path)
        self.config = config
        # beside each worker another starts with the new configuration, and takes its shards over
        for worker in list(self.workers):
            self._start_worker(set()).takes = worker, set(worker.shards), True
        self._not_before = time.monotonic() + 5.0
        if self.maintenance is not None:
            os.kill(self.maintenance.pid, signal.SIGTERM)

    def _stop(self) -> None:
        for worker in self.workers:
            self._order(worker, {"stop": True})
        if self.maintenance is not None:
            os.kill(self.maintenance.pid, signal.SIGTERM)
            wait_for(self.maintenance.pid)
        for worker in self.workers:
            wait_for(worker.pid)
        (self.data_dir / "node.json").unlink(missing_ok=True)
        if self.state_socket is not None:
            self.state_socket.remove()

    def _document(self) -> bytes:
        identity = {
            "node": self.config.node.name,
            "version": __version__,
            "pid": os.getpid(),
            "started_ns": self.started_ns,
            "config_sha256": self.config.sha256(),
        }
        return node_file.document(identity, self.listeners, self.workers)


def leftover(data_dir: Path, shards: int) -> set[int]:
    """Shards of a configuration with more than ``shards`` of them, whose journals have blocks."""
    found = {
        int(path.name)
        for path in (data_dir / "shards").glob("*")
        if path.name.isdigit() and int(path.name) >= shards and any(path.glob("journal/*.block"))
    }
    if found:
        log.warning("shards %s are none any more; what they have is stored first", sorted(found))
    return found


def main(config: Config, path: Path | None = None) -> int:
    """Run the collector in the foreground; the exit status."""
    return Supervisor(config, path).run()
