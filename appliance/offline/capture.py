"""A capture file as batches of export datagrams: what the sockets would have received."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from appliance.batch import I64, DatagramBatch
from appliance.decode import gather
from appliance.offline.packets import TCP, UDP, Segments, segments
from appliance.offline.pcap import CaptureFile, Packets
from appliance.offline.reassembly import Fragments, Streams

IPFIX_PORT = 4739


@dataclass(slots=True)
class CaptureBatch:
    """Up to ``pcap.BATCH`` packets' datagrams, in the order in which they were complete."""

    datagrams: DatagramBatch
    frame: I64
    """``int64 (n,)``: number of the packet (the last one, of fragments and streams) in the file."""
    port: I64
    """``int64 (n,)``: destination port."""


@dataclass(slots=True)
class _Loose:
    """A datagram put together from several packets, or cut out of a stream."""

    packet: int
    payload: bytes
    address: bytes
    source_port: int
    port: int
    session: int


class Capture:
    """One capture file; ``problems`` lists, after reading, what was skipped or damaged."""

    def __init__(self, path: str | Path, ports: frozenset[int] = frozenset()) -> None:
        """``ports``: only datagrams to these destination ports; empty means every UDP datagram."""
        self._file = CaptureFile(path)
        self._ports = ports
        self._tcp_ports = ports or frozenset({IPFIX_PORT})
        self._fragments = Fragments()
        self._streams = Streams()
        self._skipped: Counter[str] = Counter()

    @property
    def problems(self) -> list[str]:
        """What was wrong but not fatal, a sentence each, with the file's name."""
        path = self._file.path
        counts = self._skipped.copy()
        counts["fragments of datagrams that never became whole"] += (
            len(self._fragments) + self._fragments.incomplete
        )
        counts["gaps in TCP streams"] += self._streams.gaps
        return self._file.problems + [
            f"{path}: {count} packets: {reason}" for reason, count in counts.items() if count
        ]

    def batches(self) -> Iterator[CaptureBatch]:
        """All export datagrams. Raises ``pcap.CaptureError`` where the file is damaged."""
        for packets in self._file.packets():
            batch = self._batch(packets)
            if len(batch.datagrams):
                yield batch

    def _batch(self, packets: Packets) -> CaptureBatch:
        rows = segments(packets, self._skipped)
        whole = rows.fragment < 0
        udp = whole & (rows.protocol == UDP) & (rows.start + 8 <= rows.captured)
        index = np.flatnonzero(udp)
        buffer, start = packets.buffer, rows.start[index]
        source_port = gather.u16(buffer, start)
        port = gather.u16(buffer, start + 2).astype(np.int64)
        size = gather.u16(buffer, start + 4).astype(np.int64)
        ip_stop, captured = rows.stop[index], rows.captured[index]
        # a length of 0 comes from segmentation offload: the IP length counts
        stop = np.where(size >= 8, np.minimum(start + size, ip_stop), ip_stop)
        keep = stop > start + 8
        if self._ports:
            keep &= np.isin(port, list(self._ports))
        cut = int(np.count_nonzero(keep & (stop > captured)))
        if cut:
            self._skipped["cut by the capture's snap length, decoded as far as they go"] += cut
        index, kept = index[keep], np.flatnonzero(keep)
        offset = start[kept] + 8
        length = np.minimum(stop, captured)[kept] - offset
        packet = rows.packet[index]
        direct = CaptureBatch(
            DatagramBatch(
                buffer,
                offset,
                np.maximum(length, 0),
                packets.time_ns[packet],
                rows.source[index],
                source_port[kept],
            ),
            packets.frame[packet],
            port[kept],
        )
        loose = self._loose(packets, rows)
        return _merged(packets, direct, loose) if loose else direct

    def _loose(self, packets: Packets, rows: Segments) -> list[_Loose]:
        """Datagrams that need more than their own packet: a Python loop, over few packets."""
        found: list[_Loose] = []
        slow = (rows.fragment >= 0) | (rows.protocol == TCP)
        for i in np.flatnonzero(slow).tolist():
            packet = int(rows.packet[i])
            stop = int(min(rows.stop[i], rows.captured[i]))
            data = packets.buffer[int(rows.start[i]) : stop].tobytes()
            protocol = int(rows.protocol[i])
            source, target = rows.source[i].tobytes(), rows.target[i].tobytes()
            if rows.fragment[i] >= 0:
                key = (source, target, protocol, int(rows.identification[i]))
                joined = self._fragments.add(key, int(rows.fragment[i]), bool(rows.more[i]), data)
                if joined is None:
                    continue
                data = joined
            if protocol == UDP:
                found += self._datagram(packet, data, source)
            elif protocol == TCP:
                found += self._messages(packet, data, source, target)
        return found

    def _datagram(self, packet: int, data: bytes, source: bytes) -> list[_Loose]:
        source_port, port = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big")
        if len(data) <= 8 or (self._ports and port not in self._ports):
            return []
        size = int.from_bytes(data[4:6], "big")
        payload = data[8 : size if size >= 8 else None]
        return [_Loose(packet, payload, source, source_port, port, 0)]

    def _messages(self, packet: int, data: bytes, source: bytes, target: bytes) -> list[_Loose]:
        source_port, port = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:4], "big")
        if len(data) < 20 or port not in self._tcp_ports:
            return []
        header = (data[12] >> 4) * 4
        session, messages = self._streams.add(
            (source, source_port, target, port),
            int.from_bytes(data[4:8], "big"),
            bool(data[13] & 2),
            data[max(header, 20) :],
        )
        return [_Loose(packet, m, source, source_port, port, session) for m in messages]


def _merged(packets: Packets, direct: CaptureBatch, loose: list[_Loose]) -> CaptureBatch:
    """``direct`` with ``loose`` among it, by packet; copies the buffer, as this is rare."""
    extra = DatagramBatch.from_payloads(
        [x.payload for x in loose],
        [x.address for x in loose],
        packets.time_ns[[x.packet for x in loose]].tolist(),
        [x.source_port for x in loose],
        [x.session for x in loose],
    )
    one = direct.datagrams
    frame = np.concatenate([direct.frame, packets.frame[[x.packet for x in loose]]])
    order = np.argsort(frame, kind="stable")
    joined = DatagramBatch(
        np.concatenate([one.buffer, extra.buffer]),
        np.concatenate([one.offset, extra.offset + len(one.buffer)]),
        np.concatenate([one.length, extra.length]),
        np.concatenate([one.received_ns, extra.received_ns]),
        np.concatenate([one.address, extra.address]),
        np.concatenate([one.port, extra.port]),
        np.concatenate([one.session, extra.session]),
    )
    port = np.concatenate([direct.port, np.asarray([x.port for x in loose], np.int64)])
    return CaptureBatch(joined.select(order), frame[order], port[order])
