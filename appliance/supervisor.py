"""The collector's first process: it owns the sockets, and starts all the others.

Sockets outlive workers, because they are made here (or handed over by the service manager, and kept
in its file-descriptor store). A shard is a socket of every listener, a journal and a state of its
own. Who has which is the matter of the pool; a new configuration is that of the transition.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import signal
import socket
import time
from pathlib import Path

from appliance import __version__, follow, node_file
from appliance.children import Child, Restarts, check_writable, fork, only_one, wait_for
from appliance.config import Config, read_file
from appliance.health import canary
from appliance.health.pulse import PULSE_FILE, Pulse
from appliance.health.state_socket import SOCKET_FILE, StateSocket
from appliance.pool import Pool
from appliance.receive import capabilities, systemd
from appliance.receive.listeners import Listeners, close_unused
from appliance.receive.sockets import ListenError
from appliance.settings import path_of
from appliance.transition import Transition

log = logging.getLogger(__name__)


class Supervisor:
    """Runs the collector until SIGTERM or SIGINT."""

    def __init__(self, config: Config, path: Path | None = None) -> None:
        """``path``: the file that is read again at SIGHUP, and over which settings may lie."""
        self.path = path
        self.data_dir = Path(config.data_dir)
        self.listeners = Listeners()
        self.restarts = Restarts()
        self.pool = Pool(config, self._work, self.restarts)
        self.maintenance: Child | None = None
        self.follower: Child | None = None
        self.pulse: Pulse | None = None
        self.state_socket: StateSocket | None = None
        self.transition: Transition
        self.started_ns = time.time_ns()
        self._stopping = False
        self._reload = False
        self._signals = os.pipe()

    def run(self) -> int:
        """Open, serve, stop; returns the exit status. Raises ListenError."""
        check_writable(self.data_dir)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        with only_one(self.data_dir):
            self._listen()
            capabilities.set_aside()
            self._open_health()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, self._on_signal)
            os.set_blocking(self._signals[0], False)
            os.set_blocking(self._signals[1], False)
            signal.set_wakeup_fd(self._signals[1], warn_on_full_buffer=False)
            self.transition = Transition(
                self.pool.config, self.pool, self.listeners, self.pulse, self._replace_maintenance
            )
            self.pool.start()
            self._start_maintenance()
            self._start_follower()
            systemd.notify("READY=1")
            try:
                self._loop()
            finally:
                systemd.notify("STOPPING=1")
                self._stop()
        return 0

    def _listen(self) -> None:
        """Open all listeners; without the settings where they ask for what cannot be had."""
        handed = systemd.numbered(systemd.listen_fds())
        try:
            self.listeners.add(self.pool.config, handed)
        except ListenError as error:
            alone = read_file(self.path).config if self.path is not None else self.pool.config
            if alone == self.pool.config:
                raise
            log.error("%s; the collector begins without the settings", error)
            self.listeners.add(alone, handed)
            self.pool.config = alone
        close_unused(handed)

    def _open_health(self) -> None:
        """Make what ``tandem health`` and the API look at, if the configuration asks for it."""
        config = self.pool.config
        if config.health is None:
            return
        directory = Path(config.health.directory)
        canary.make_key(self.data_dir)
        try:
            self.pulse = Pulse.create(directory / PULSE_FILE, config.receive.shards)
            self.state_socket = StateSocket(directory / SOCKET_FILE)
        except OSError as error:
            raise ListenError(
                f"cannot use {directory}: {error.strerror}; make it writable for this user, "
                "or set another directory in [health]"
            ) from error

    # what runs in the children

    def _in_child(self) -> None:
        """Let go of what is the supervisor's: a child must see its end, whoever else is left."""
        capabilities.drop()
        if self.state_socket is not None:
            self.state_socket.close()
        for child in [*self.pool.workers, self.follower]:
            if child is not None and child.control is not None:
                child.control.close()

    def _in_helper(self) -> None:
        """The same in a child that receives nothing: a socket that somebody has is never closed."""
        self._in_child()
        for name in list(self.listeners.endpoints):
            self.listeners.drop(name)

    def _work(self, control: socket.socket) -> None:
        self._in_child()
        from appliance.worker import Worker

        Worker(self.pool.config, self.listeners, control, self.pulse).run()

    def _maintain(self) -> None:
        self._in_helper()
        os.nice(10)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from appliance.store.maintenance import run

        run(self.pool.config)

    def _start_maintenance(self) -> None:
        self.maintenance = fork(self._maintain, None)

    def _replace_maintenance(self) -> None:
        """Have it read its part of the configuration again; it may be ended at any time."""
        if self.maintenance is not None:
            self.maintenance.ending = True
            os.kill(self.maintenance.pid, signal.SIGTERM)

    def _start_follower(self) -> None:
        path = self.path
        if path is None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        where = path_of(self.pool.config)

        def body() -> None:
            ours.close()
            self._in_helper()
            follow.run(path, where, theirs)

        self.follower = fork(body, ours)
        theirs.close()

    # the loop

    def _on_signal(self, number: int, frame: object) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stopping = True
        elif number == signal.SIGHUP:
            self._reload = True

    def _loop(self) -> None:
        written = 0.0
        while not self._stopping:
            by_fd = {w.control.fileno(): w for w in self.pool.workers if w.control is not None}
            if self.follower is not None and self.follower.control is not None:
                by_fd[self.follower.control.fileno()] = self.follower
            wait = 0.1 if self.restarts.due or self.transition.busy else 0.5
            asked = [] if self.state_socket is None else [self.state_socket.fileno()]
            readable, _, _ = select.select([self._signals[0], *asked, *by_fd], [], [], wait)
            for fd in readable:
                if fd == self._signals[0]:
                    os.read(fd, 4096)
                elif fd in asked and self.state_socket is not None:
                    self.state_socket.answer(self._document)
                elif by_fd[fd] is self.follower:
                    for message in by_fd[fd].messages():
                        self.transition.hear(message)
                else:
                    self.pool.hear(by_fd[fd])
            if self._reload and self.follower is not None:
                self._reload = False
                self.follower.order({"look": True})
            self._reap()
            self.restarts.start_due()
            self.transition.step()
            if time.monotonic() - written >= 1.0:
                written = time.monotonic()
                self.pool.balance()
                self.pool.end_silent()
                node_file.write(self.data_dir, self._document())
                systemd.watchdog()

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
                if ended.ending:
                    self._start_maintenance()
                else:
                    self.restarts.again("maintenance", ended, status, self._start_maintenance)
            elif self.follower is not None and pid == self.follower.pid:
                ended, self.follower = self.follower, None
                if ended.control is not None:
                    ended.control.close()
                self.restarts.again("follower", ended, status, self._start_follower)
            else:
                self.pool.ended(pid, status)

    # state, end

    def _stop(self) -> None:
        self.pool.stop()
        for child in (self.maintenance, self.follower):
            if child is not None:
                os.kill(child.pid, signal.SIGTERM)
                wait_for(child.pid)
        for worker in self.pool.workers:
            wait_for(worker.pid)
        (self.data_dir / node_file.NODE_FILE).unlink(missing_ok=True)
        if self.state_socket is not None:
            self.state_socket.remove()

    def _document(self) -> bytes:
        identity = {
            "node": self.pool.config.node.name,
            "version": __version__,
            "pid": os.getpid(),
            "started_ns": self.started_ns,
            **self.transition.report(),
        }
        return node_file.document(identity, self.listeners, self.pool.workers)


def main(config: Config, path: Path | None = None) -> int:
    """Run the collector in the foreground; the exit status."""
    return Supervisor(config, path).run()
