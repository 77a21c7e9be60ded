"""The first of the two data types: a batch of received datagrams, columnar."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

IPV4_MAPPED_PREFIX = bytes(10) + b"\xff\xff"


@dataclass(slots=True)
class DatagramBatch:
    """``n`` datagrams in order of arrival; payloads stay where the kernel put them.

    A datagram is one UDP payload or one IPFIX message of a TCP session. All arrays but ``buffer``
    have ``n`` entries. ``buffer[offset[i] : offset[i] + length[i]]`` is the payload of datagram
    ``i``; payloads may lie anywhere in the buffer and need not be adjacent or ordered.
    """

    buffer: U8
    """1-D ``uint8``; read-only by convention, often a view of a mapped journal block."""
    offset: I64
    """``int64``: first byte of the payload."""
    length: I64
    """``int64``: bytes of payload, 0 to 65535."""
    received_ns: I64
    """``int64``: arrival time, ns since the epoch, from the kernel where it gave one."""
    address: U8
    """``uint8`` of shape ``(n, 16)``: the exporter's address, IPv4 mapped (RFC 4291, 2.5.5.2)."""
    port: NDArray[np.uint16]
    """``uint16``: the exporter's port; never part of any key."""
    session: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    """``uint32``: 0 for UDP; else the number of the TCP transport session (RFC 7011, section 8)."""

    def __post_init__(self) -> None:
        if len(self.session) != len(self.offset):
            self.session = np.zeros(len(self.offset), np.uint32)

    def __len__(self) -> int:
        return len(self.offset)

    def payload(self, i: int) -> bytes:
        """The bytes of datagram ``i``: a copy; for tests, holding and errors, not the hot path."""
        start = int(self.offset[i])
        return self.buffer[start : start + int(self.length[i])].tobytes()

    def select(self, index: NDArray[np.intp] | slice) -> DatagramBatch:
        """The datagrams at ``index`` (integers, a boolean mask or a slice), same buffer."""
        return DatagramBatch(
            self.buffer,
            self.offset[index],
            self.length[index],
            self.received_ns[index],
            self.address[index],
            self.port[index],
            self.session[index],
        )

    @classmethod
    def from_payloads(
        cls,
        payloads: list[bytes],
        address: bytes | list[bytes] = IPV4_MAPPED_PREFIX + bytes([127, 0, 0, 1]),
        received_ns: int | list[int] = 0,
        port: int | list[int] = 0,
        session: int | list[int] = 0,
    ) -> DatagramBatch:
        """Build a batch from byte strings: for tests, captures, and held data.

        ``address`` is one or ``n`` 16-byte addresses; the other values are one or ``n`` integers.
        """
        n = len(payloads)
        length = np.fromiter((len(p) for p in payloads), np.int64, n)
        offset = np.cumsum(length) - length
        joined = address * n if isinstance(address, bytes) else b"".join(address)
        return cls(
            np.frombuffer(b"".join(payloads) or b"\0", np.uint8),
            offset,
            length,
            np.broadcast_to(np.asarray(received_ns, np.int64), n).copy(),
            np.frombuffer(joined, np.uint8).reshape(n, 16),
            np.broadcast_to(np.asarray(port, np.uint16), n).copy(),
            np.broadcast_to(np.asarray(session, np.uint32), n).copy(),
        )
