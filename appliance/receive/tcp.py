"""IPFIX over TCP: framing, PROXY protocol v2, and transport sessions (RFC 7011, section 10.4).

A message is read from the socket straight into its journal slot, once the kernel has all of it:
TCP data follow the same path as datagrams, and no partial message is ever in our memory.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import itertools
import logging
import socket
import struct
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from appliance.batch import IPV4_MAPPED_PREFIX
from appliance.journal.block import SCM_TIMESTAMPNS, SLOT_BYTES, Block
from appliance.receive.recvmmsg import receive

log = logging.getLogger(__name__)

PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MAX_PROXY_BYTES = 16 + 2048
HEADER_BYTES = 16


class FramingError(Exception):
    """The stream is not IPFIX (or not PROXY protocol v2): the session must end."""


def packed(address: str) -> bytes:
    """16 bytes of a textual address, IPv4 mapped."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return ip.packed if ip.version == 6 else IPV4_MAPPED_PREFIX + ip.packed


def parse_proxy(head: bytes) -> tuple[int, bytes | None, int]:
    """Parse a PROXY protocol v2 header: (its length, source address or None, source port).

    ``head`` may be longer, or shorter: then (0, None, 0), wait for more. The address is None for
    LOCAL connections (health checks) and families without an IP address. Raises FramingError.
    """
    if head[:12] != PROXY_SIGNATURE[: len(head)]:
        raise FramingError("no PROXY protocol v2 header")
    if len(head) < 16:
        return 0, None, 0
    version, family, length = head[12], head[13], struct.unpack_from(">H", head, 14)[0]
    if version >> 4 != 2 or version & 15 > 1 or 16 + length > MAX_PROXY_BYTES:
        raise FramingError(f"PROXY header not valid: version/command {version:#x}, {length} bytes")
    if len(head) < 16 + length:
        return 0, None, 0
    if version & 15 == 0:
        return 16 + length, None, 0
    if family >> 4 == 1 and length >= 12:
        source = IPV4_MAPPED_PREFIX + head[16:20]
        return 16 + length, source, struct.unpack_from(">H", head, 24)[0]
    if family >> 4 == 2 and length >= 36:
        return 16 + length, head[16:32], struct.unpack_from(">H", head, 48)[0]
    return 16 + length, None, 0


def session_numbers() -> Iterator[int]:
    """Session numbers, not zero, that do not repeat across restarts within days."""
    return (n % 0xFFFFFFFE + 1 for n in itertools.count(int(time.time() * 100)))


@dataclass(slots=True)
class Session:
    """One accepted connection."""

    sock: socket.socket
    number: int
    address: bytes
    port: int
    proxied: bool
    """A PROXY header is still to come."""
    last_ns: int = field(default_factory=time.monotonic_ns)
    messages: int = 0
    bytes: int = 0
    _wanted: int = 1
    """Bytes that must have come before the socket counts as readable."""

    def fileno(self) -> int:
        """For epoll."""
        return self.sock.fileno()

    def ready(self) -> int:
        """Bytes of the next whole message that the kernel has; 0: not all of it is there yet.

        Raises FramingError, and EOFError when the exporter closed.
        """
        while True:
            try:
                head = self.sock.recv(MAX_PROXY_BYTES if self.proxied else 4, socket.MSG_PEEK)
            except BlockingIOError:
                return self._wait_for(4)
            if not head:
                raise EOFError
            if not self.proxied:
                break
            length, address, port = parse_proxy(head)
            if not length:
                return self._wait_for(len(head) + 1)
            self.sock.recv(length)
            self.proxied = False
            if address is not None:
                self.address, self.port = address, port
        if head[:2] != b"\0\x0a"[: len(head)]:
            raise FramingError("the stream is not IPFIX: a message must begin with version 10")
        if len(head) < 4:
            return self._wait_for(4)
        size: int = struct.unpack_from(">H", head, 2)[0]
        if size < HEADER_BYTES:
            raise FramingError(f"IPFIX message length {size} is less than its header")
        waiting = struct.unpack("i", fcntl.ioctl(self.sock, termios.FIONREAD, b"\0\0\0\0"))[0]
        if waiting < size:
            return self._wait_for(size)
        self._wait_for(4)  # what comes next may be shorter than what we had to wait for
        return size

    def _wait_for(self, count: int) -> int:
        """Be woken when ``count`` bytes are there, or the end; not for each segment. Gives 0."""
        if count != self._wanted:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._wanted = count
        return 0

    def read_into(self, block: Block, size: int) -> int:
        """Read one whole message of ``size`` bytes into the next slot of ``block``."""
        slot = block.count
        block.names[slot] = 0
        block.names[slot, 0] = 10
        block.names[slot, 2:4] = list(self.port.to_bytes(2, "big"))
        block.names[slot, 8:24] = list(self.address)
        block.sessions[slot] = self.number
        now = time.time_ns()
        block.control["time_type"][slot] = SCM_TIMESTAMPNS
        block.control["seconds"][slot] = now // 1_000_000_000
        block.control["nanoseconds"][slot] = now % 1_000_000_000
        message = block.messages[slot : slot + 1]
        message["name_length"] = 0
        message["control_length"] = 0
        block.vectors["length"][slot, 0] = min(size, SLOT_BYTES)
        block.vectors["length"][slot, 1] = max(size - SLOT_BYTES, 0)
        message["vector_length"] = 1 if size <= SLOT_BYTES else 2
        taken = 0
        try:
            taken = receive(self.fileno(), block.message_address(slot), 1)
        finally:
            if not taken:
                block.restore(slot)  # a datagram may come next
        self.messages += taken
        self.bytes += size * taken
        self.last_ns = time.monotonic_ns()
        return taken


def accept(listener: socket.socket, number: int, proxy_protocol: bool) -> Session | None:
    """The next connection as a session, or None when none waits.

    OSError when this process or the machine has no room for one more (EMFILE, ENFILE, ENOMEM).
    """
    try:
        sock, peer = listener.accept()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            raise
        return None  # none waits, or what it died of is told here (accept(2), Error handling)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return Session(sock, number, packed(peer[0]), int(peer[1]), proxy_protocol)
