"""Capture files, read without a library: classic pcap and pcapng, gzip-compressed or not.

Sources: draft-ietf-opsawg-pcap (classic pcap, both byte orders, microseconds or nanoseconds) and
draft-ietf-opsawg-pcapng (section header, interface description, enhanced and simple packet blocks;
other blocks are skipped). A file is read once, in chunks, so that its size does not matter; packets
stay in the chunk they were read with, as the columns of :class:`Packets`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from appliance.batch import I64, U8

CHUNK = 1 << 20
MAX_PACKET = 1 << 20
"""A captured length beyond this is damage: the largest IP packet has 65,575 octets."""
BATCH = 1024
"""Packets per :class:`Packets`, at most."""

_GZIP = b"\x1f\x8b"
_SECTION = 0x0A0D0D0A
_INTERFACE, _SIMPLE, _ENHANCED = 1, 3, 6
_COMPRESSED = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zX": "xz",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
}
_INT64_MAX = (1 << 63) - 1


class CaptureError(Exception):
    """A capture file that cannot be read, or not further: names file, byte offset and remedy.

    Offset 0 is not named: then it is the whole file that is of no use.
    """

    def __init__(self, path: Path, offset: int, what: str, remedy: str) -> None:
        where = f"at byte {offset}: " if offset else ""
        super().__init__(f"{path}: {where}{what}; {remedy}")
        self.path = path
        self.offset = offset


@dataclass(slots=True)
class Packets:
    """``n`` captured packets in the order of the file; all arrays but ``buffer`` are int64."""

    buffer: U8
    """1-D ``uint8``: a chunk of the file."""
    offset: I64
    """First captured byte of the packet in ``buffer``."""
    length: I64
    """Captured bytes; fewer than were on the wire where the capture had a snap length."""
    time_ns: I64
    """ns since the epoch; 0 in simple packet blocks, which have no time."""
    link: I64
    """Link type (the LINKTYPE_ registry of libpcap)."""
    frame: I64
    """Number of the packet in its file, from 1, counting every packet."""

    def __len__(self) -> int:
        return len(self.offset)


@dataclass(slots=True)
class _Interface:
    """A pcapng interface, or the one interface of a classic file."""

    link: int
    snap: int = 0
    ticks: int = 1_000_000
    """Ticks of the clock a second (pcapng option if_tsresol)."""
    shift_s: int = 0
    """Seconds to add (pcapng option if_tsoffset)."""

    def time_ns(self, ticks: int) -> int:
        time = ticks * 1_000_000_000 // self.ticks + self.shift_s * 1_000_000_000
        return time if 0 <= time <= _INT64_MAX else 0


@dataclass(slots=True)
class _Rows:
    """Packets of one chunk while they are collected."""

    offset: list[int] = field(default_factory=list)
    length: list[int] = field(default_factory=list)
    time_ns: list[int] = field(default_factory=list)
    link: list[int] = field(default_factory=list)

    def add(self, offset: int, length: int, time_ns: int, link: int) -> None:
        self.offset.append(offset)
        self.length.append(length)
        self.time_ns.append(time_ns)
        self.link.append(link)


class CaptureFile:
    """One capture file. ``problems`` has, after reading, what was wrong but not fatal."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.problems: list[str] = []
        self._frame = 0
        self._base = 0
        self._failure: CaptureError | None = None
        self._order = "<"
        self._interfaces: list[_Interface] = []

    def packets(self) -> Iterator[Packets]:
        """All packets, at most :data:`BATCH` at a time.

        Raises :class:`CaptureError` where the file cannot be read further, after the packets
        before that place.
        """
        try:
            with open(self.path, "rb") as file:
                yield from self._chunks(_uncompressed(file))
        except OSError as error:
            reason = error.strerror or str(error)
            raise CaptureError(self.path, 0, reason, "check the path and its permissions") from None
        if self._failure is not None:
            raise self._failure

    def _chunks(self, file: BinaryIO | _Gunzip) -> Iterator[Packets]:
        rest = self._read(file)
        parse = self._open(rest)
        start = 24 if parse == self._classic else 0
        while True:
            rows = _Rows()
            consumed = parse(rest, start, rows)
            yield from self._batches(rest, rows)
            if self._failure is not None:
                return
            more = self._read(file)
            if not more:
                if consumed < len(rest):
                    self.problems.append(
                        f"{self.path}: at byte {self._base + consumed}: the file ends inside a "
                        "packet; the whole packets before it were kept (was the capture still "
                        "being written, or the disk full?)"
                    )
                return
            self._base += consumed
            rest = rest[consumed:] + more
            start = 0

    def _read(self, file: BinaryIO | _Gunzip) -> bytes:
        try:
            return file.read(CHUNK)
        except (EOFError, zlib.error) as error:
            self.problems.append(
                f"{self.path}: the gzip data is damaged or ends early ({error}); what came before "
                "was kept; check it with `gzip -t`"
            )
            return b""

    def _open(self, head: bytes) -> Callable[[bytes, int, _Rows], int]:
        """Recognise the format by its first bytes."""
        magic = head[:4]
        for order in "<>":
            for number, ticks in ((0xA1B2C3D4, 1_000_000), (0xA1B23C4D, 1_000_000_000)):
                if magic == struct.pack(order + "I", number) and len(head) >= 24:
                    self._order = order
                    link = struct.unpack_from(order + "I", head, 20)[0] & 0xFFFF
                    self._interfaces = [_Interface(link, ticks=ticks)]
                    return self._classic
        if magic == struct.pack("<I", _SECTION):
            return self._blocks
        for signature, name in _COMPRESSED.items():
            if head.startswith(signature):
                raise CaptureError(self.path, 0, f"compressed with {name}", "decompress it first")
        what = "an empty file" if not head else "neither pcap nor pcapng"
        raise CaptureError(
            self.path, 0, what, "capture with tcpdump or dumpcap, or convert with `editcap -F pcap`"
        )

    def _fail(self, at: int, what: str, remedy: str) -> None:
        self._failure = CaptureError(self.path, self._base + at, what, remedy)

    def _classic(self, data: bytes, at: int, rows: _Rows) -> int:
        """Packet records of classic pcap; returns how far ``data`` was used."""
        header = struct.Struct(self._order + "4I")
        interface = self._interfaces[0]
        to_ns = 1_000_000_000 // interface.ticks
        end = len(data)
        while at + 16 <= end:
            seconds, fraction, captured, _ = header.unpack_from(data, at)
            if captured > MAX_PACKET:
                self._fail(
                    at,
                    f"a packet of {captured} octets cannot be",
                    "the file is damaged from here on; packets before it were read",
                )
                break
            if at + 16 + captured > end:
                break
            rows.add(at + 16, captured, seconds * 1_000_000_000 + fraction * to_ns, interface.link)
            at += 16 + captured
        return at

    def _blocks(self, data: bytes, at: int, rows: _Rows) -> int:
        """Blocks of pcapng; returns how far ``data`` was used."""
        end = len(data)
        while at + 12 <= end:
            if data[at : at + 4] == b"\x0a\x0d\x0d\x0a":
                self._order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
                self._interfaces = []
            kind, size = struct.unpack_from(self._order + "2I", data, at)
            if size < 12 or size % 4 or size > MAX_PACKET + 65536:
                self._fail(
                    at,
                    f"a pcapng block of {size} octets cannot be",
                    "the file is damaged from here on; packets before it were read",
                )
                break
            if at + size > end:
                break
            wrong = self._block(kind, data, at, size, rows)
            if wrong:
                self._fail(at, wrong, "the file is damaged; try `pcapfix` or capture again")
                break
            at += size
        return at

    def _block(self, kind: int, data: bytes, at: int, size: int, rows: _Rows) -> str | None:
        """One whole block; returns what is wrong with it."""
        order, body = self._order, at + 8
        if kind == _INTERFACE and size >= 20:
            link, _, snap = struct.unpack_from(order + "HHI", data, body)
            interface = _Interface(link, snap)
            _interface_options(interface, order, data[body + 8 : at + size - 4])
            self._interfaces.append(interface)
        elif kind == _ENHANCED and size >= 32:
            number, high, low, captured, _ = struct.unpack_from(order + "5I", data, body)
            if number >= len(self._interfaces):
                return f"a packet of interface {number}, which is not described"
            if captured > size - 32:
                return f"a packet of {captured} octets in a block of {size}"
            interface = self._interfaces[number]
            rows.add(body + 20, captured, interface.time_ns(high << 32 | low), interface.link)
        elif kind == _SIMPLE and size >= 16:
            if not self._interfaces:
                return "a packet of interface 0, which is not described"
            interface = self._interfaces[0]
            captured = min(struct.unpack_from(order + "I", data, body)[0], size - 16)
            if interface.snap:
                captured = min(captured, interface.snap)
            rows.add(body + 4, captured, 0, interface.link)
        return None

    def _batches(self, data: bytes, rows: _Rows) -> Iterator[Packets]:
        buffer = np.frombuffer(data, np.uint8)
        columns = [
            np.asarray(c, np.int64) for c in (rows.offset, rows.length, rows.time_ns, rows.link)
        ]
        for first in range(0, len(rows.offset), BATCH):
            offset, length, time_ns, link = (c[first : first + BATCH] for c in columns)
            frame = self._frame + 1 + np.arange(len(offset), dtype=np.int64)
            self._frame += len(offset)
            yield Packets(buffer, offset, length, time_ns, link, frame)


def _uncompressed(file: BinaryIO) -> BinaryIO | _Gunzip:
    start = file.read(2)
    file.seek(0)
    return _Gunzip(file) if start == _GZIP else file


class _Gunzip:
    """Decompresses as it reads; unlike ``gzip.GzipFile`` it gives what came before damage."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._member = zlib.decompressobj(31)
        self._source = b""
        self._damage: Exception | None = None

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end; raises on damage at the call after it."""
        if self._damage is not None:
            raise self._damage
        parts: list[bytes] = []
        while size > 0:
            if not self._source:
                self._source = self._file.read(65536)
            if not self._source:
                if not self._member.eof:
                    self._damage = EOFError("unexpected end")
                break
            if self._member.eof:
                self._member = zlib.decompressobj(31)
            try:
                part = self._member.decompress(self._source, size)
            except zlib.error as error:
                self._damage = error
                break
            self._source = self._member.unconsumed_tail or self._member.unused_data
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _interface_options(interface: _Interface, order: str, options: bytes) -> None:
    """if_tsresol (9) and if_tsoffset (14) of an interface description block."""
    at = 0
    while at + 4 <= len(options):
        code, size = struct.unpack_from(order + "HH", options, at)
        value = options[at + 4 : at + 4 + size]
        if code == 0 or len(value) < size:
            return
        if code == 9 and size == 1:
            power = value[0] & 0x7F
            interface.ticks = 1 << power if value[0] & 0x80 else 10**power
        elif code == 14 and size == 8:
            interface.shift_s = struct.unpack(order + "q", value)[0]
        at += 4 + (size + 3) // 4 * 4
