"""A journal block: a mapped file into which the kernel itself writes received datagrams.

The arguments of recvmmsg(2) (mmsghdr, iovec, sockaddr, control) live in the mapped file beside the
payload slots. What the kernel has taken out of the socket is therefore on file at that moment,
with its sender, its length and its arrival time: a SIGKILL at any point loses no datagram, and
journalling costs no copy. A mapped file outlives its process without fsync; the death of the whole
machine is covered by the peers' shadows.

Layout, every part aligned to a page::

    header    magic, version, geometry, number, first position, boot id, CRC-32
    messages  mmsghdr[slots]        64 bytes each
    vectors   iovec[slots][2]       first the slot, then the overflow area
    names     sockaddr_in6[slots]   padded to 32
    control   cmsg area[slots]      64: SCM_TIMESTAMPNS, SO_RXQ_OVFL
    sessions  uint32[slots]         0 for UDP, else the TCP transport session
    slots     2048 bytes each       enough for a datagram of an Ethernet MTU
    overflow  areas of 64 KiB       the rest of longer datagrams

A slot ``i`` that was filled has ``msg_len != EMPTY``. Its overflow area is ``i % areas``; once a
datagram used its area, the block ends ``areas`` slots later, so no area is ever shared.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import struct
import sys
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from appliance.batch import IPV4_MAPPED_PREFIX, DatagramBatch

PAGE: Final = mmap.PAGESIZE
SLOT_BYTES: Final = 2048
AREA_BYTES: Final = 65536
EMPTY: Final = 0xFFFFFFFF
MAGIC: Final = b"TNDMJRNL"
VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sIIIIQQ36s")
NAME_BYTES: Final = 32
NAME_USED: Final = 28
CONTROL_BYTES: Final = 64
_MADV_POPULATE_WRITE: Final = 23

MESSAGE_DTYPE: Final = np.dtype(
    {
        "names": [
            "name",
            "name_length",
            "vector",
            "vector_length",
            "control",
            "control_length",
            "flags",
            "length",
        ],
        "formats": ["<u8", "<u4", "<u8", "<u8", "<u8", "<u8", "<i4", "<u4"],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 56],
        "itemsize": 64,
    }
)
"""struct mmsghdr of a 64-bit Linux (recvmmsg(2))."""

VECTOR_DTYPE: Final = np.dtype([("base", "<u8"), ("length", "<u8")])
CONTROL_DTYPE: Final = np.dtype(
    [
        ("time_length", "<u8"),
        ("time_level", "<i4"),
        ("time_type", "<i4"),
        ("seconds", "<i8"),
        ("nanoseconds", "<i8"),
        ("drops_length", "<u8"),
        ("drops_level", "<i4"),
        ("drops_type", "<i4"),
        ("drops", "<u4"),
        ("rest", "V12"),
    ]
)
"""The two control messages in the order in which the kernel puts them (__sock_recv_cmsgs)."""
SCM_TIMESTAMPNS: Final = 35
SO_RXQ_OVFL: Final = 40


class BlockError(Exception):
    """A file is not a whole block of this layout; the text says why."""


@cache
def boot_id() -> bytes:
    """The kernel's id of this boot: mapped pages are coherent within one boot only."""
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()[:36]


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


@dataclass(frozen=True, slots=True)
class Geometry:
    """Slots and overflow areas of a block, and where its parts begin (bytes)."""

    slots: int = 4096
    areas: int = 64

    @classmethod
    def for_budget(cls, max_bytes: int) -> Geometry:
        """The largest blocks of which at least four are in ``max_bytes``, within reason."""
        for slots in (4096, 2048, 1024):
            geometry = cls(slots, slots // 64)
            if 4 * geometry.size <= max_bytes:
                return geometry
        return cls(512, 8)

    @property
    def messages(self) -> int:
        """First byte of the mmsghdr array."""
        return PAGE

    @property
    def vectors(self) -> int:
        """First byte of the iovec array."""
        return self.messages + _pages(64 * self.slots)

    @property
    def names(self) -> int:
        """First byte of the addresses."""
        return self.vectors + _pages(32 * self.slots)

    @property
    def control(self) -> int:
        """First byte of the control areas."""
        return self.names + _pages(NAME_BYTES * self.slots)

    @property
    def sessions(self) -> int:
        """First byte of the session numbers."""
        return self.control + _pages(CONTROL_BYTES * self.slots)

    @property
    def payload(self) -> int:
        """First byte of the slots."""
        return self.sessions + _pages(4 * self.slots)

    @property
    def overflow(self) -> int:
        """First byte of the overflow areas."""
        return self.payload + _pages(SLOT_BYTES * self.slots)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.overflow + AREA_BYTES * self.areas


class Block:
    """One mapped block. Made by :meth:`create` (empty) or :meth:`open` (as found on disk)."""

    def __init__(self, path: Path, geometry: Geometry, mapped: mmap.mmap) -> None:
        self.path = path
        self.geometry = geometry
        self._mapped = mapped
        self.buffer = np.frombuffer(mapped, np.uint8)
        g = geometry
        self.messages = self._view(g.messages, MESSAGE_DTYPE, g.slots)
        self.vectors = self._view(g.vectors, VECTOR_DTYPE, g.slots * 2).reshape(g.slots, 2)
        self.names = self._view(g.names, np.dtype(np.uint8), g.slots * NAME_BYTES).reshape(
            g.slots, NAME_BYTES
        )
        self.control = self._view(g.control, CONTROL_DTYPE, g.slots)
        self.sessions = self._view(g.sessions, np.dtype("<u4"), g.slots)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        self.number = 0
        self.first = 0
        """Journal position of slot 0."""
        self.count = 0
        """Slots filled and accounted for; the receiver raises it, the decoder reads up to it."""
        self.capacity = g.slots
        self._blank: NDArray[np.uint8] | None = None
        """Messages and vectors as they are in an empty block of this process."""

    def _view(self, offset: int, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        return np.ndarray((count,), dtype, self.buffer, offset)

    @property
    def end(self) -> int:
        """Journal position after the last filled slot."""
        return self.first + self.count

    @property
    def full(self) -> bool:
        """Whether no further datagram fits."""
        return self.count >= self.capacity

    @classmethod
    def create(cls, path: Path, geometry: Geometry) -> Block:
        """A new, empty, fully allocated block file; OSError (ENOSPC) leaves nothing behind."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # allocated now: a hole met later by a full disk would be a SIGBUS or a lost datagram
            os.posix_fallocate(fd, 0, geometry.size)
            mapped = mmap.mmap(fd, geometry.size)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
        with contextlib.suppress(OSError):  # before Linux 5.14 the first use of a page faults it in
            mapped.madvise(_MADV_POPULATE_WRITE, 0, geometry.overflow)
        return cls(path, geometry, mapped)

    def _point(self) -> None:
        """Write the pointers of this process's mapping; they mean nothing to any other."""
        g = self.geometry
        index = np.arange(g.slots, dtype=np.uint64)
        base = np.uint64(self.address)
        self.vectors["base"][:, 0] = base + np.uint64(g.payload) + index * np.uint64(SLOT_BYTES)
        area = np.uint64(g.overflow) + (index % np.uint64(g.areas)) * np.uint64(AREA_BYTES)
        # the head of an area stays free, to put the datagram together when it is read
        self.vectors["base"][:, 1] = base + area + np.uint64(SLOT_BYTES)
        self.messages["name"] = base + np.uint64(g.names) + index * np.uint64(NAME_BYTES)
        self.messages["vector"] = base + np.uint64(g.vectors) + index * np.uint64(32)
        self.messages["control"] = base + np.uint64(g.control) + index * np.uint64(CONTROL_BYTES)

    def begin(self, number: int, first: int) -> None:
        """Empty the block and number it. The header is written last: a torn begin is no block."""
        g = self.geometry
        self._mapped[:8] = bytes(8)
        if self._blank is None:
            self._point()  # a block that was recovered still has those of the process before
            self.restore(slice(None))
            self._blank = self.buffer[g.messages : g.names].copy()
        else:
            self.buffer[g.messages : g.names] = self._blank
            self.buffer[g.control : g.payload] = 0
        self.number, self.first, self.count, self.capacity = number, first, 0, g.slots
        packed = _HEADER.pack(MAGIC, VERSION, g.slots, g.areas, 0, number, first, boot_id())
        header = packed + struct.pack("<I", zlib.crc32(packed))
        self._mapped[8 : len(header)] = header[8:]
        self._mapped[:8] = MAGIC

    def restore(self, slots: int | slice) -> None:
        """Make ``slots`` ready for datagrams: empty, and with all of the room that they have."""
        self.messages["length"][slots] = EMPTY
        self.messages["name_length"][slots] = NAME_USED
        self.messages["control_length"][slots] = CONTROL_BYTES
        self.messages["vector_length"][slots] = 2
        self.messages["flags"][slots] = 0
        self.vectors["length"][slots, 0] = SLOT_BYTES
        self.vectors["length"][slots, 1] = AREA_BYTES - SLOT_BYTES
        self.control["time_type"][slots] = 0
        self.control["drops_type"][slots] = 0
        self.sessions[slots] = 0

    @classmethod
    def open(cls, path: Path) -> tuple[Block, bool]:
        """Map a block left by another process: ``(block, trusted)``.

        ``trusted`` is False when it was written in another boot of the machine, so that pages may
        be missing. Raises BlockError for a file that is torn, foreign, or was never begun.
        """
        with path.open("r+b") as file:
            head = file.read(_HEADER.size + 4)
            if len(head) < _HEADER.size + 4 or head[:8] != MAGIC:
                raise BlockError("no block header")
            _, version, slots, areas, _, number, first, boot = _HEADER.unpack_from(head)
            if struct.unpack_from("<I", head, _HEADER.size)[0] != zlib.crc32(head[: _HEADER.size]):
                raise BlockError("block header fails its checksum")
            if version != VERSION:
                raise BlockError(f"block layout version {version}, this program reads {VERSION}")
            geometry = Geometry(slots, areas)
            if os.fstat(file.fileno()).st_size != geometry.size:
                raise BlockError("block file is cut short")
            block = cls(path, geometry, mmap.mmap(file.fileno(), geometry.size))
        block.number, block.first = number, first
        empty = np.flatnonzero(block.messages["length"] == EMPTY)
        block.count = block.capacity = int(empty[0]) if len(empty) else slots
        return block, boot == boot_id()

    def torn(self) -> NDArray[np.bool_]:
        """Slots (bool ``(count,)``) that cannot be a received datagram: pages lost with a boot."""
        n = self.count
        family = self.names[:n, :2].copy().view("<u2").ravel()
        length = self.messages["length"][:n]
        bad = ~np.isin(family, (2, 10)) | (length > AREA_BYTES)
        bad |= self.control["time_type"][:n] != SCM_TIMESTAMPNS
        version = self.buffer[self.geometry.payload :][: n * SLOT_BYTES].reshape(n, SLOT_BYTES)
        bad |= (length >= 4) & ~version[:, :4].any(axis=1)
        return bad

    def note(self, received: int) -> None:
        """Account for ``received`` further slots that the kernel has filled."""
        length = self.messages["length"][self.count : self.count + received]
        if length.max(initial=0) > SLOT_BYTES:
            long = self.count + int(np.argmax(length > SLOT_BYTES))
            self.capacity = min(self.capacity, long + self.geometry.areas)
        self.count += received

    def message_address(self, slot: int) -> int:
        """Address of the mmsghdr of ``slot`` in this process."""
        return self.address + self.geometry.messages + 64 * slot

    def room(self) -> int:
        """Slots that one recvmmsg may fill now, each with an overflow area of its own."""
        return min(self.capacity - self.count, self.geometry.areas)

    def batch(self, start: int, stop: int) -> DatagramBatch:
        """The datagrams in slots ``start`` to ``stop``: views of the mapping, not copies."""
        g = self.geometry
        length = self.messages["length"][start:stop].astype(np.int64)
        slot = np.arange(start, stop, dtype=np.int64)
        offset = g.payload + slot * SLOT_BYTES
        for i in np.flatnonzero(length > SLOT_BYTES).tolist():
            area = g.overflow + int(slot[i]) % g.areas * AREA_BYTES
            at = int(offset[i])
            self.buffer[area : area + SLOT_BYTES] = self.buffer[at : at + SLOT_BYTES]
            offset[i] = area
        names = self.names[start:stop]
        family = names[:, 0]
        address = np.ascontiguousarray(names[:, 8:24])
        v4 = family == 2
        if v4.any():
            address[v4, :12] = np.frombuffer(IPV4_MAPPED_PREFIX, np.uint8)
            address[v4, 12:] = names[v4, 4:8]
        port = np.ascontiguousarray(names[:, 2:4]).view(">u2").ravel().astype(np.uint16)
        control = self.control[start:stop]
        received = control["seconds"] * 1_000_000_000 + control["nanoseconds"]
        received[control["time_type"] != SCM_TIMESTAMPNS] = 0
        return DatagramBatch(
            self.buffer, offset, length, received, address, port, self.sessions[start:stop].copy()
        )

    def close(self) -> None:
        """Drop this process's views; the mapping goes when the last batch of it is gone."""
        self.buffer = np.zeros(0, np.uint8)
        for name in ("messages", "vectors", "names", "control", "sessions"):
            setattr(self, name, self.buffer)

    def unlink(self) -> None:
        """Remove the file; live batches stay readable."""
        self.path.unlink(missing_ok=True)
        self.close()


if sys.byteorder != "little" or struct.calcsize("P") != 8:
    raise ImportError("the journal needs a 64-bit little-endian Linux")
