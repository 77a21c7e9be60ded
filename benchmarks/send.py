"""Sends a load at a bounded rate, each datagram from the address of its exporter.

One socket for all exporters: the source address goes with each message (IP_PKTINFO, ip(7)), and
sendmmsg(2) takes the messages where they lie.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time

import numpy as np

from benchmarks.generate import FIRST_ADDRESS, Load

BURST = 32
"""Datagrams a call: at most so many arrive back to back."""

IP_PKTINFO = 8
_IOVEC = np.dtype([("base", "<u8"), ("length", "<u8")])
_MESSAGE = np.dtype(
    {
        "names": ["name", "name_length", "vector", "vectors", "control", "control_length"],
        "formats": ["<u8", "<u4", "<u8", "<u8", "<u8", "<u8"],
        "offsets": [0, 8, 16, 24, 32, 40],
        "itemsize": 64,
    }
)
_CONTROL = np.dtype(
    [
        ("length", "<u8"),
        ("level", "<i4"),
        ("type", "<i4"),
        ("interface", "<i4"),
        ("source", ">u4"),
        ("address", ">u4"),
        ("padding", "<u4"),
    ]
)
_NAME = np.dtype([("family", "<u2"), ("port", ">u2"), ("address", ">u4"), ("zero", "<u8")])
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]


class Sender:
    """Sends to 127.0.0.1 ``port``; ``rate`` is in datagrams a second."""

    def __init__(self, port: int, rate: float, exporters: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._rate = rate
        self._name = np.array([(socket.AF_INET, port, 0x7F000001, 0)], _NAME)
        self._control = np.zeros(exporters, _CONTROL)
        self._control["length"] = 28
        self._control["type"] = IP_PKTINFO
        self._control["source"] = FIRST_ADDRESS + np.arange(exporters)
        self.datagrams = 0
        self.seconds = 0.0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, load: Load) -> None:
        """Send all of ``load``; too slow a sender never makes up for it in a burst."""
        n = len(load)
        vectors = np.zeros(n, _IOVEC)
        vectors["base"] = load.buffer.ctypes.data + load.offset
        vectors["length"] = load.length
        messages = np.zeros(n, _MESSAGE)
        messages["name"] = self._name.ctypes.data
        messages["name_length"] = self._name.itemsize
        messages["vector"] = vectors.ctypes.data + np.arange(n) * _IOVEC.itemsize
        messages["vectors"] = 1
        messages["control"] = self._control.ctypes.data + load.exporter * _CONTROL.itemsize
        messages["control_length"] = _CONTROL.itemsize
        fd, first = self._socket.fileno(), messages.ctypes.data
        begun = due = time.perf_counter()
        at = 0
        while at < n:
            now = time.perf_counter()
            if now < due:
                time.sleep(due - now)
            else:
                due = now
            sent = _libc.sendmmsg(fd, first + at * _MESSAGE.itemsize, min(BURST, n - at), 0)
            if sent < 0:
                code = ctypes.get_errno()
                raise OSError(code, f"sendmmsg: {os.strerror(code)}")
            at += sent
            due += sent / self._rate
        self.datagrams += n
        self.seconds += time.perf_counter() - begun
