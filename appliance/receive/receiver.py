"""The receiving thread: sockets of some shards in, their journals out.

It does as little as possible: wait, let datagrams gather for some milliseconds (fewer wake-ups are
most of what receiving costs), let the kernel write them into the journal, account for them. It
neither decodes nor allocates, so that a slow stage behind it never costs a datagram while the
journal has room.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import resource
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from appliance.health.canary import LENGTH
from appliance.health.pulse import Row
from appliance.health.recognise import Recogniser
from appliance.journal.block import SO_RXQ_OVFL, Block
from appliance.journal.journal import Journal
from appliance.receive import tcp
from appliance.receive.recvmmsg import receive

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.02
"""How long datagrams gather after a wake-up, where the receive buffers are large enough."""
GATHER_RATE = 200_000
"""Datagrams a second that a small receive buffer must hold while they gather."""
BUFFERED_BYTES = 2304
"""What a datagram of Ethernet size takes of a receive buffer."""
SESSION_IDLE_NS = 30 * 60 * 1_000_000_000
"""Sessions end when they are quiet for so long."""
SESSION_SILENT_NS = 2 * 60 * 1_000_000_000
"""The same for those that have never sent a message: they keep others out."""
MAX_SESSIONS = 4096
ACCEPTED_AT_ONCE = 64
MESSAGES_AT_ONCE = 64
"""Of one session, before others have their turn."""
MESSAGES_AT_LAST = 4096
"""Of one session that ends with its worker."""
SPARE_DESCRIPTORS = 256
"""Files that the process may need open besides its sessions."""


@dataclass(slots=True)
class Intake:
    """One UDP socket of one shard, and what came through it, canaries apart."""

    listener: str
    sock: socket.socket
    journal: Journal
    row: Row | None = None
    """The shard's part of the pulse."""
    column: int = 0
    """The listener's place in it."""
    datagrams: int = 0
    bytes: int = 0
    kernel_dropped: int = 0
    """The kernel's count for the socket since it was made (SO_RXQ_OVFL), as last seen."""


@dataclass(slots=True)
class StreamIntake:
    """A listening TCP socket for IPFIX."""

    listener: str
    sock: socket.socket
    journal: Journal
    proxy_protocol: bool
    row: Row | None = None
    datagrams: int = 0
    bytes: int = 0
    sessions_refused: int = 0
    framing_errors: int = 0
    ended: deque[tuple[int, int]] = field(default_factory=deque)
    """(journal position, session): sessions that ended, for the decoder to forget."""


class Receiver(threading.Thread):
    """Receives until :meth:`stop`; one a worker process."""

    def __init__(
        self,
        make_room: Callable[[int], int] | None = None,
        notify: Callable[[], None] = lambda: None,
        recogniser: Recogniser | None = None,
    ) -> None:
        """``recogniser``: knows canaries; needed where intakes have a row in the pulse."""
        super().__init__(name="receive", daemon=True)
        self.sessions: dict[int, tuple[tcp.Session, StreamIntake]] = {}
        self._make_room = make_room
        self._notify = notify
        self._recogniser = recogniser
        self._numbers = tcp.session_numbers()
        self._gather = GATHER_SECONDS
        self._poller = select.epoll()
        self._by_fd: dict[int, Intake] = {}
        self._listening: dict[int, StreamIntake] = {}
        self._changes: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe()
        self._stopping = False
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_sessions = max(min(MAX_SESSIONS, files - SPARE_DESCRIPTORS), 1)
        self._expired_at = time.monotonic()
        self.stalls = 0
        """Times that no journal block was to be had; the kernel's buffer held the datagrams."""
        self.error: BaseException | None = None

    def stop(self) -> None:
        """Finish the batch at hand and end; what is left stays in the sockets."""
        self._stopping = True
        os.write(self._wake_write, b"x")
        self.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def add(self, intakes: list[Intake], streams: list[StreamIntake]) -> None:
        """Receive from these, too."""
        self._ask(lambda: self._add(intakes, streams))

    def remove(self, journal: Journal) -> None:
        """Leave all that is received into ``journal``; when this returns, nobody writes to it."""
        self._ask(lambda: self._remove(journal))

    def _ask(self, change: Callable[[], None]) -> None:
        """Run ``change`` between two batches, in the receiving thread, and wait for it."""
        done = threading.Event()

        def run() -> None:
            change()
            done.set()

        self._changes.put(run)
        os.write(self._wake_write, b"x")
        while not done.wait(0.1):
            if self.error is not None:
                raise self.error

    def _add(self, intakes: list[Intake], streams: list[StreamIntake]) -> None:
        for intake in intakes:
            self._by_fd[intake.sock.fileno()] = intake
            self._poller.register(intake.sock.fileno(), select.EPOLLIN)
            granted = intake.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            self._gather = min(self._gather, granted / BUFFERED_BYTES / GATHER_RATE)
        for stream in streams:
            self._listening[stream.sock.fileno()] = stream
            self._poller.register(stream.sock.fileno(), select.EPOLLIN)

    def _remove(self, journal: Journal) -> None:
        for fd in [fd for fd, (_, stream) in self.sessions.items() if stream.journal is journal]:
            self._finish(fd)
        for fd in [fd for fd, intake in self._by_fd.items() if intake.journal is journal]:
            self._poller.unregister(fd)
            del self._by_fd[fd]
        for fd in [fd for fd, stream in self._listening.items() if stream.journal is journal]:
            self._poller.unregister(fd)
            del self._listening[fd]

    def run(self) -> None:
        """Thread body."""
        try:
            self._loop()
        except BaseException as error:
            log.exception("receiving failed")
            self.error = error
            self._notify()
        finally:
            for session, _ in self.sessions.values():
                session.sock.close()
            self._poller.close()

    def _loop(self) -> None:
        self._poller.register(self._wake_read, select.EPOLLIN)
        while not self._stopping:
            busy = False
            for fd, events in self._poller.poll(1.0):
                if fd in self._by_fd:
                    busy = self._drain(self._by_fd[fd]) or busy
                elif fd in self._listening:
                    self._accept(self._listening[fd])
                elif fd in self.sessions:
                    busy = self._stream(fd, events) or busy
                elif fd == self._wake_read:
                    os.read(fd, 64)
                    while not self._changes.empty():
                        self._changes.get()()
            self._expire_sessions()
            if busy:
                self._notify()
                time.sleep(self._gather)

    def _block(self, intake: Intake | StreamIntake) -> Block | None:
        journal, code = intake.journal, 0
        try:
            block = journal.open_block()
            if block is None:
                code = errno.ENOBUFS
        except OSError as error:
            log.error("journal: %s", error)
            code = error.errno or errno.EIO
            # stored flows go for nothing but space
            if self._make_room is not None and code in (errno.ENOSPC, errno.EDQUOT):
                self._make_room(journal.geometry.size)
            block = None
        if intake.row is not None:
            intake.row.receiver_problem(code)
        if block is None:
            self.stalls += 1
            time.sleep(self._gather)  # the kernel's buffer holds, and counts what it cannot
        return block

    def _drain(self, intake: Intake) -> bool:
        """Take all that waits in one socket, but not for ever: at most one block."""
        journal, fd = intake.journal, intake.sock.fileno()
        left = journal.geometry.slots
        while left > 0:
            block = self._block(intake)
            if block is None:
                return False
            first, room = block.count, min(block.room(), left)
            taken = receive(fd, block.message_address(first), room)
            if taken:
                # first, for once the journal has them, the other thread may let the block go
                canary = self._count(intake, block, first, taken)
                journal.received(block, taken)
                if intake.row is not None:
                    intake.row.received(intake.column, intake.datagrams, canary)
                left -= taken
            if taken < room:
                break
        return True

    def _count(self, intake: Intake, block: Block, first: int, taken: int) -> int:
        """Account for what is new in ``block``; the number of the newest canary, or 0."""
        lengths = block.messages["length"][first : first + taken]
        canaries = newest = 0
        if self._recogniser is not None:
            canaries, newest = self._recogniser.newest(block, first, lengths)
        intake.datagrams += taken - canaries
        intake.bytes += int(lengths.sum(dtype=np.int64)) - canaries * LENGTH
        last = block.control[first + taken - 1]
        if last["drops_type"] == SO_RXQ_OVFL:
            intake.kernel_dropped = int(last["drops"])
        return newest

    def _accept(self, stream: StreamIntake) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                s = tcp.accept(stream.sock, next(self._numbers), stream.proxy_protocol)
            except OSError as error:
                log.error("%s: a connection has to wait: %s", stream.listener, error)
                time.sleep(self._gather)
                return
            if s is None:
                return
            if len(self.sessions) >= self._max_sessions:
                stream.sessions_refused += 1
                s.sock.close()
                continue
            self.sessions[s.fileno()] = (s, stream)
            self._poller.register(s.fileno(), select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLPRI)

    def _stream(self, fd: int, events: int) -> bool:
        session, stream = self.sessions[fd]
        try:
            if events & select.EPOLLPRI:
                raise tcp.FramingError("urgent data is no part of IPFIX")
            for _ in range(MESSAGES_AT_ONCE):
                size = session.ready()
                if not size:
                    # the exporter closed within a message: SO_RCVLOWAT never wakes us for that
                    if events & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP):
                        raise EOFError
                    return True
                block = self._block(stream)
                if block is None:
                    return False
                taken = session.read_into(block, size)
                if taken:
                    stream.journal.received(block, taken)
                    stream.datagrams += taken
                    stream.bytes += size
        except (EOFError, OSError):  # also a time-out, when the exporter is gone
            self._end(fd)
        except tcp.FramingError as error:
            stream.framing_errors += 1
            log.warning("%s: session %d ended: %s", stream.listener, session.number, error)
            self._end(fd)
        return True

    def _finish(self, fd: int) -> None:
        """End a session, after the whole messages that have come; not after all that may come."""
        for _ in range(MESSAGES_AT_LAST // MESSAGES_AT_ONCE):
            if fd not in self.sessions:
                return
            before = self.sessions[fd][0].messages
            self._stream(fd, 0)
            if fd in self.sessions and self.sessions[fd][0].messages == before:
                break
        if fd in self.sessions:
            self._end(fd)

    def _end(self, fd: int) -> None:
        session, stream = self.sessions.pop(fd)
        session.sock.close()
        stream.ended.append((stream.journal.position, session.number))
        self._notify()

    def _expire_sessions(self) -> None:
        if time.monotonic() - self._expired_at < 1.0:
            return
        self._expired_at = time.monotonic()
        now = time.monotonic_ns()
        for fd, (session, _) in list(self.sessions.items()):
            limit = SESSION_IDLE_NS if session.messages else SESSION_SILENT_NS
            if now - session.last_ns > limit:
                self._end(fd)
