"""Capture files to JSON lines: what ``tandem decode`` prints, and the conformance suite reads."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from appliance.batch import I64
from appliance.decode.context import Status
from appliance.decode.decoder import Decoded, Decoder
from appliance.decode.elements import Registry
from appliance.offline.capture import Capture, CaptureBatch
from appliance.offline.render import Renderer, address_text

MAX_REMEMBERED = 1 << 16
"""Datagrams remembered for the packet number of records that had to wait for their template."""


def decode_files(
    paths: Iterable[str | Path],
    *,
    options: bool = False,
    counters: bool = False,
    errors: bool = False,
    together: bool = False,
    ports: frozenset[int] = frozenset(),
    elements: Iterable[Path] = (),
    problems: list[str] | None = None,
) -> Iterator[list[str]]:
    """The records of captures as JSON, some hundred lines at a time, in the order of the packets.

    Flow records always; options data, sFlow counters and errors on request, told by their key
    ``type``. Each file has a decoder of its own unless ``together``. What was wrong with a file is
    added to ``problems`` in plain words. Raises ``pcap.CaptureError`` where a file cannot be read
    (further), and ``elements.RegistryError`` for a bad file of ``elements``.
    """
    registry = Registry.load(list(elements))
    renderer = Renderer(registry)
    decoder = Decoder(registry)
    found: list[str] = [] if problems is None else problems
    for path in paths:
        if not together:
            decoder = Decoder(registry)
        capture = Capture(path, ports)
        lines = _Lines(renderer, options, counters, errors)
        try:
            for batch in capture.batches():
                # the capture's clock, so that what is held for too long ends as it did then
                now_ns = int(batch.datagrams.received_ns.max())
                yield lines.of(batch, decoder.decode(batch.datagrams, now_ns))
        finally:
            found += capture.problems + [f"{path}: {text}" for text in lines.losses()]


class _Lines:
    """Renders what the decoder gives, batch by batch, for one file."""

    def __init__(self, renderer: Renderer, options: bool, counters: bool, errors: bool) -> None:
        self._renderer = renderer
        self._options = options
        self._counters = counters
        self._errors = errors
        self._status: Counter[int] = Counter()
        self._waiting: OrderedDict[tuple[bytes, int, int], int] = OrderedDict()

    def of(self, batch: CaptureBatch, decoded: Decoded) -> list[str]:
        """The lines of one batch."""
        self._status.update(decoded.status.tolist())
        for (_, status), count in decoded.released.items():
            self._status[Status.HELD] -= count
            self._status[status] += count
        lines: list[tuple[int, str]] = []
        for rows, datagram in zip(decoded.flows, decoded.flow_datagram, strict=True):
            lines += self._rows(rows, self._frames(batch, rows, datagram), "")
        if self._counters:
            for rows, datagram in zip(decoded.counters, decoded.counter_datagram, strict=True):
                lines += self._rows(rows, self._frames(batch, rows, datagram), "counters")
        if self._options:
            which = np.asarray([r.datagram for r in decoded.options_records], np.int64)
            for rows in decoded.options:
                datagram, which = which[: len(rows)], which[len(rows) :]
                lines += self._rows(rows, self._frames(batch, rows, datagram), "options")
        if self._errors:
            lines += _errors(batch, decoded)
        self._remember(batch, decoded)
        lines.sort(key=lambda line: line[0])
        return [text for _, text in lines]

    def losses(self) -> list[str]:
        """What was not decoded, by reason, in words."""
        reasons = {
            Status.HELD: "hold data whose template did not come",
            Status.UNKNOWN_VERSION: "are of no version that is known",
            Status.OVER_LIMIT: "went beyond a limit",
        }
        return [
            f"{count} datagrams "
            + reasons.get(Status(number), f"are {Status(number).name.lower()}; see --errors")
            for number, count in sorted(self._status.items())
            if number != Status.DECODED and count > 0
        ]

    def _rows(self, rows: pa.RecordBatch, frames: I64, kind: str) -> list[tuple[int, str]]:
        texts = self._renderer.lines(rows, pa.array(frames), kind)
        return list(zip(frames.tolist(), texts, strict=True))

    def _frames(self, batch: CaptureBatch, rows: pa.RecordBatch, datagram: I64) -> I64:
        """Packet numbers of rows; of what was held before, by exporter and time of arrival."""
        if not (datagram < 0).any():
            return batch.frame[datagram]
        keys = zip(
            rows["exporter"].storage.to_pylist(),
            rows["exporter_port"].to_pylist(),
            rows["received_ns"].to_pylist(),
            strict=True,
        )
        return np.fromiter((self._waiting.get(key, 0) for key in keys), np.int64, len(rows))

    def _remember(self, batch: CaptureBatch, decoded: Decoded) -> None:
        rows = batch.datagrams
        for i in np.flatnonzero(decoded.status == Status.HELD).tolist():
            key = (rows.address[i].tobytes(), int(rows.port[i]), int(rows.received_ns[i]))
            self._waiting.setdefault(key, int(batch.frame[i]))
            if len(self._waiting) > MAX_REMEMBERED:
                self._waiting.popitem(last=False)


def _errors(batch: CaptureBatch, decoded: Decoded) -> list[tuple[int, str]]:
    """One line for each error, with the place in the datagram."""
    lines = []
    for error in decoded.errors:
        frame = int(batch.frame[error.datagram])
        text = orjson.dumps(
            {
                "type": "error",
                "packet": frame,
                "exporter": address_text(batch.datagrams.address[error.datagram].tobytes()),
                "exporter_port": int(batch.datagrams.port[error.datagram]),
                "status": error.status.name.lower(),
                "offset": error.offset,
                "detail": error.detail,
            }
        )
        lines.append((frame, text.decode()))
    return lines
