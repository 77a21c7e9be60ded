"""What the network cut in pieces: IP fragments, and IPFIX messages in TCP streams; bounded."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

MAX_DATAGRAMS = 1024
"""IP datagrams with missing fragments kept at a time; the oldest gives way."""
MAX_DATAGRAM = 65535
MAX_STREAMS = 4096
"""TCP connections followed at a time; the one that was silent longest gives way."""
MAX_AHEAD = 1 << 20
"""Octets of a TCP stream kept behind a gap; then the gap is given up."""
MAX_SEGMENTS = 4096
"""As :data:`MAX_AHEAD`, in segments."""
_IPFIX_HEADER = 16

FragmentKey = tuple[bytes, bytes, int, int]
StreamKey = tuple[bytes, int, bytes, int]


@dataclass(slots=True)
class _Pieces:
    parts: dict[int, bytes] = field(default_factory=dict)
    total: int = -1

    def joined(self) -> bytes | None:
        """The whole payload, once there is no hole; of an overlap, what starts first counts."""
        if sum(map(len, self.parts.values())) < self.total or self.total < 0:
            return None
        whole = bytearray()
        for offset in sorted(self.parts):
            if offset > len(whole):
                return None
            whole[len(whole) :] = self.parts[offset][len(whole) - offset :]
        return bytes(whole[: self.total]) if len(whole) >= self.total else None


class Fragments:
    """IPv4 and IPv6 reassembly (RFC 791, RFC 8200 section 4.5) by number of datagrams, not time."""

    def __init__(self) -> None:
        self._pending: OrderedDict[FragmentKey, _Pieces] = OrderedDict()
        self.incomplete = 0
        """Datagrams given up because others came before they were whole."""

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, key: FragmentKey, offset: int, more: bool, data: bytes) -> bytes | None:
        """The IP payload, if this fragment of the datagram ``key`` completes it."""
        if offset + len(data) > MAX_DATAGRAM:
            return None
        pieces = self._pending.setdefault(key, _Pieces())
        pieces.parts.setdefault(offset, data)
        if not more:
            pieces.total = offset + len(data)
        whole = pieces.joined()
        if whole is not None:
            del self._pending[key]
        elif len(self._pending) > MAX_DATAGRAMS:
            self._pending.popitem(last=False)
            self.incomplete += 1
        return whole


@dataclass(slots=True)
class _Stream:
    number: int
    expected: int = -1
    """Sequence number of the next octet; -1 until one is known."""
    ready: bytearray = field(default_factory=bytearray)
    """Octets in order, not yet cut into messages."""
    ahead: dict[int, bytes] = field(default_factory=dict)
    """Segments behind a gap, by sequence number."""
    lost: bool = False
    """Message boundaries are not known; look for a header at the start of a segment."""


class Streams:
    """IPFIX messages (RFC 7011, section 10.4) out of TCP segments in any order."""

    def __init__(self) -> None:
        self._streams: OrderedDict[StreamKey, _Stream] = OrderedDict()
        self._count = 0
        self.gaps = 0
        """Times that octets were missing and message boundaries had to be found anew."""

    def add(self, key: StreamKey, sequence: int, syn: bool, data: bytes) -> tuple[int, list[bytes]]:
        """Number of the stream ``key`` (from 1) and the messages that this segment completes."""
        stream = self._streams.get(key)
        if stream is None or (syn and sequence + 1 != stream.expected):
            self._count += 1
            stream = self._streams[key] = _Stream(self._count)
            if len(self._streams) > MAX_STREAMS:
                self._streams.popitem(last=False)
        self._streams.move_to_end(key)
        if syn:
            sequence = sequence + 1 & 0xFFFFFFFF
            stream.expected = sequence
        if not data:
            return stream.number, []
        if stream.expected < 0:
            stream.expected = sequence
            stream.lost = True
        stream.ahead.setdefault(sequence, data)
        self._advance(stream)
        waiting = stream.ahead
        if len(waiting) > MAX_SEGMENTS or sum(map(len, waiting.values())) > MAX_AHEAD:
            self.gaps += 1
            stream.ready.clear()
            stream.lost = True
            stream.expected = min(stream.ahead, key=lambda s: s - stream.expected & 0xFFFFFFFF)
            self._advance(stream)
        return stream.number, self._messages(stream)

    def _advance(self, stream: _Stream) -> None:
        """Move what follows without a gap from ``ahead`` to ``ready``."""
        moved = True
        while moved:
            moved = False
            for sequence in sorted(stream.ahead, key=lambda s: s - stream.expected & 0xFFFFFFFF):
                known = stream.expected - sequence & 0xFFFFFFFF
                if known >= 1 << 31:
                    continue
                data = stream.ahead.pop(sequence)[known:]
                if data and stream.lost and not _starts_message(data):
                    stream.expected = stream.expected + len(data) & 0xFFFFFFFF
                elif data:
                    stream.lost = False
                    stream.ready += data
                    stream.expected = stream.expected + len(data) & 0xFFFFFFFF
                moved = True

    def _messages(self, stream: _Stream) -> list[bytes]:
        messages = []
        while len(stream.ready) >= _IPFIX_HEADER:
            if not _starts_message(stream.ready):
                self.gaps += 1
                stream.ready.clear()
                stream.lost = True
                break
            size = int.from_bytes(stream.ready[2:4], "big")
            if len(stream.ready) < size:
                break
            messages.append(bytes(stream.ready[:size]))
            del stream.ready[:size]
        return messages


def _starts_message(data: bytes | bytearray) -> bool:
    """Could an IPFIX message start here: version 10 and a length of at least its header."""
    return data[:2] == b"\0\x0a" and (
        len(data) < 4 or int.from_bytes(data[2:4], "big") >= _IPFIX_HEADER
    )
