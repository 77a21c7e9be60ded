"""Sends a load from one socket: a batch a millisecond, in one system call, at an even rate."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import time
from array import array
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from appliance.drill.datagrams import Stream
from appliance.drill.sendlog import Load, SendLog

PERIOD_NS = 1_000_000
"""From batch to batch."""
LATE_NS = 100_000_000
"""A sender that the machine has held up makes up for as much, at twice its rate; never more."""
CHUNK_SECONDS = 0.05
"""How much is made ready at a time."""

_PIECES, _TEMPLATE = 3, 1
"""A datagram is header, template and body; all datagrams of a stream share its template."""
_IOVEC = np.dtype([("base", "<u8"), ("length", "<u8")])
_MESSAGE = np.dtype(
    {
        "names": ["name", "name_length", "vector", "vectors"],
        "formats": ["<u8", "<u4", "<u8", "<u8"],
        "offsets": [0, 8, 16, 24],
        "itemsize": 64,
    }
)
"""The fields of ``struct mmsghdr`` (64 bits) that are used here."""
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]


class Sender:
    """Sends numbered datagrams of ``protocols`` in turn, ``rate`` a second in all."""

    def __init__(
        self,
        address: str,
        port: int,
        protocols: tuple[str, ...],
        *,
        run: int,
        rate: int,
        records: int = 2,
        template_seconds: float = 1,
        device: str = "",
    ) -> None:
        """``device``: the interface to send by, also to an address that this machine itself has."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            _bind_device(probe, device)
            probe.connect((address, port))
            source = probe.getsockname()[0]
        # not connected: ports that are closed for a time would make calls fail and break the pace
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        _bind_device(self._socket, device)
        self._socket.bind((source, 0))
        self._name = _name(family, address, port)
        count = len(protocols)
        every = max(round(template_seconds * rate / count), 1)
        self.load = Load(run, protocols, records, every, source, address, port)
        self._batch = max(round(rate * PERIOD_NS / 1e9), 1)
        self._datagram_ns = 1e9 / rate
        self._rows = max(round(rate * CHUNK_SECONDS / count), 1)
        self._streams = [Stream(p, run, records, self._rows, every) for p in protocols]
        self._templates = [np.frombuffer(s.template or b"\0", np.uint8) for s in self._streams]
        self._vectors = np.zeros((self._rows, count, _PIECES), _IOVEC)
        self._messages = np.zeros(self._rows * count, _MESSAGE)
        for i, stream in enumerate(self._streams):
            for k, piece in enumerate((stream.head, self._templates[i], stream.body)):
                step = piece.itemsize if k != _TEMPLATE else 0
                self._vectors["base"][:, i, k] = piece.ctypes.data + np.arange(self._rows) * step
                self._vectors["length"][:, i, k] = step
        self._messages["name"] = self._name.ctypes.data
        self._messages["name_length"] = len(self._name)
        size = _PIECES * _IOVEC.itemsize
        first = self._vectors.ctypes.data
        self._messages["vector"] = first + np.arange(len(self._messages)) * size
        self._messages["vectors"] = _PIECES
        self._times, self._wall, self._counts = array("q"), array("q"), array("q")
        self._errors: Counter[str] = Counter()
        self._stopped = False

    def stop(self) -> None:
        """Make :meth:`send` return soon; for signal handlers and other threads."""
        self._stopped = True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, seconds: float) -> SendLog:
        """Send for so long, or until :meth:`stop`."""
        chunk, due = 0, time.monotonic_ns()
        end = due + int(seconds * 1e9)
        while not self._stopped and time.monotonic_ns() < end:
            for i, stream in enumerate(self._streams):
                stream.advance(chunk * self._rows)
                self._vectors["length"][:, i, _TEMPLATE] = stream.template_length
            due = self._send_chunk(due, end)
            chunk += 1
        times, wall, counts = (
            np.array(a, np.int64) for a in (self._times, self._wall, self._counts)
        )
        return SendLog(self.load, times, wall, counts, dict(self._errors))

    def _send_chunk(self, due: int, end: int) -> int:
        """Send what is ready, beginning at ``due``; when the next should begin."""
        at, count = 0, len(self._messages)
        first, size, fd = self._messages.ctypes.data, _MESSAGE.itemsize, self._socket.fileno()
        next_ = due
        while at < count:
            now = time.monotonic_ns()
            if now < next_:
                time.sleep((next_ - now) / 1e9)
                now = time.monotonic_ns()
            if self._stopped or now >= end:
                break
            wall = time.time_ns()
            batch = min(self._batch, count - at)
            sent = _libc.sendmmsg(fd, first + at * size, batch, socket.MSG_DONTWAIT)
            if sent < 0:
                self._failed(ctypes.get_errno())
                continue
            self._times.append(now)
            self._wall.append(wall)
            self._counts.append(sent)
            at += sent
            time_ns = int(sent * self._datagram_ns)
            due = max(due + time_ns, now - LATE_NS)
            next_ = max(due, now + time_ns // 2)
        return due

    def _failed(self, code: int) -> None:
        """Nothing was sent: count why; the same datagrams are sent again."""
        self._errors[errno.errorcode.get(code, str(code))] += 1
        time.sleep(PERIOD_NS / 1e9)


def _bind_device(sock: socket.socket, device: str) -> None:
    if device:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())


def _name(family: socket.AddressFamily, address: str, port: int) -> NDArray[np.uint8]:
    """A ``struct sockaddr``."""
    packed = socket.inet_pton(family, address)
    if family == socket.AF_INET6:
        raw = struct.pack("=H", family) + struct.pack(">HI16sI", port, 0, packed, 0)
    else:
        raw = struct.pack("=H", family) + struct.pack(">H4s8x", port, packed)
    return np.frombuffer(raw, np.uint8)
