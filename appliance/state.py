"""What a node's files say of its ledger and its templates, as of the last checkpoints; reads only.

The collector writes a checkpoint of each shard about once a second. Readers (the API, the command
line) need no collector to run, and disturb none.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from appliance.decode import Decoder
from appliance.decode.elements import Registry
from appliance.decode.sources import SourceTable
from appliance.ledger.counters import COUNTERS, DISPOSITIONS
from appliance.ledger.ledger import KEYS, Ledger, merge
from appliance.schema import ExportProtocol
from appliance.store import retired
from appliance.store.checkpoint import CHECKPOINT, Checkpoint, CheckpointError
from appliance.store.retired import Reason

_ATTEMPTS = 5


class StateError(Exception):
    """The state cannot be read; the message names the file."""


@dataclass(frozen=True, slots=True)
class LedgerView:
    """The ledger of all shards, and of what has left the store since."""

    table: pa.Table
    """A row for each exporter, protocol and domain: ledger.KEYS, then a column each counter."""
    updated_ns: int
    """The newest of the shards' checkpoints; 0 where there is none. A shard to which nothing comes
    writes none: an old one is as good as new."""
    torn: int
    """Datagrams in the journal that a crash of the machine destroyed; nobody knows whose."""
    uncounted: int
    """Datagrams that were stored but are missing here, because a checkpoint was damaged."""
    retired: dict[Reason, dict[str, int]]
    """Flow records that left the store, by reason and exporter."""

    def imbalances(self) -> list[str]:
        """What does not add up; empty when all is well."""
        counts = {c.name: self.table[c.name].to_numpy() for c in COUNTERS}
        received = counts["datagrams_received"]
        disposed = np.sum([counts[COUNTERS[i].name] for i in DISPOSITIONS], axis=0)
        decoded = counts["records_decoded"]
        stored = counts["records_stored"] + counts["records_dropped"]
        keys = list(zip(*(self.table[key].to_pylist() for key in KEYS), strict=True))
        pairs = (
            ("datagrams received and their dispositions", received, disposed),
            ("records decoded, and stored or dropped", decoded, stored),
        )
        return [
            "{} {} domain {}: ".format(*keys[i]) + f"{what}: {one[i]} expected, {other[i]} found"
            for what, one, other in pairs
            for i in np.flatnonzero(one != other).tolist()
        ]


@dataclass(slots=True)
class _Shard:
    """What was last read of a shard, and of which files."""

    stamp: tuple[int, int] = (0, 0)
    point: Checkpoint = field(default_factory=Checkpoint)
    state: bytes = b""
    decoder: Decoder | None = None
    ledger: pa.Table | None = None


class StateReader:
    """Reads the state of the node in a data directory; may be shared by threads.

    What has not changed is not read again.
    """

    def __init__(self, data_dir: Path, element_files: Sequence[Path] = ()) -> None:
        """``element_files``: those of the configuration, for the names of fields."""
        self._data_dir = data_dir
        self._files = tuple(element_files)
        self._shards: dict[str, _Shard] = {}
        self._registry: Registry | None = None
        self._lock = threading.Lock()

    def ledger(self) -> LedgerView:
        """The ledger; raises :class:`StateError`."""
        with self._lock:
            shards = self._refresh()
            tables = [self._ledger_of(shard) for shard in shards]
        try:
            gone = retired.load(self._data_dir / "store")
        except (OSError, ValueError) as error:
            raise StateError(str(error)) from error
        return LedgerView(
            merge([_EMPTY, *tables]),
            max((s.point.updated_ns for s in shards), default=0),
            sum(s.point.torn for s in shards),
            sum(s.point.uncounted for s in shards),
            {reason: gone.rows(reason) for reason in Reason},
        )

    def templates(
        self, exporter: str | None = None, offset: int = 0, limit: int | None = None
    ) -> tuple[list[dict[str, Any]], int]:
        """Templates with the names of their fields, and how many there are without ``limit``.

        See Decoder.templates for the keys. ``exporter``: the text of its address; None: all.
        """
        with self._lock:
            found = [
                template
                for shard in self._refresh()
                for template in self._decoder_of(shard).templates()
                if exporter in (None, template["exporter"])
            ]
        end = None if limit is None else offset + limit
        return [self._named(template) for template in found[offset:end]], len(found)

    def _named(self, template: dict[str, Any]) -> dict[str, Any]:
        protocol = template["protocol"]
        fields = [
            {"pen": pen, "id": number, "length": length, "name": self._name(protocol, pen, number)}
            for pen, number, length in template["fields"]
        ]
        return {**template, "protocol": ExportProtocol(protocol).name, "fields": fields}

    def _name(self, protocol: int, pen: int, number: int) -> str | None:
        v9 = protocol == ExportProtocol.NETFLOW_V9
        element = self._elements().get(pen, number, v9)
        return element.name if element else None

    def _elements(self) -> Registry:
        if self._registry is None:
            self._registry = Registry.load(self._files)
        return self._registry

    def _refresh(self) -> list[_Shard]:
        """Look at the checkpoint of every shard."""
        found = sorted(self._data_dir.glob(f"shards/*/{CHECKPOINT}"))
        self._shards = {
            path.parent.name: self._read(path, self._shards.get(path.parent.name, _Shard()))
            for path in found
        }
        return list(self._shards.values())

    def _read(self, path: Path, known: _Shard) -> _Shard:
        for attempt in range(_ATTEMPTS):
            try:
                status = path.stat()
                stamp = (status.st_ino, status.st_mtime_ns)
                if stamp == known.stamp:
                    return known
                point = Checkpoint.decode(path.read_bytes())
                shard = _Shard(stamp, point, known.state, known.decoder)
                if point.state != known.point.state:
                    shard.state = (path.parent / point.state).read_bytes() if point.state else b""
                    shard.decoder = None
                return shard
            except FileNotFoundError as error:
                # the file was replaced between two looks
                if attempt == _ATTEMPTS - 1:
                    raise StateError(f"{error.filename} is not there") from error
            except (OSError, CheckpointError) as error:
                raise StateError(f"{path}: {error}") from error
        raise AssertionError("unreachable")

    def _decoder_of(self, shard: _Shard) -> Decoder:
        if shard.decoder is None:
            shard.decoder = Decoder(self._elements())
            shard.decoder.load(shard.state)
        return shard.decoder

    def _ledger_of(self, shard: _Shard) -> pa.Table:
        if shard.ledger is None:
            ledger = Ledger()
            if "ledger" in shard.point.parts:
                ledger.load(shard.point.parts["ledger"])
            shard.ledger = ledger.table(self._decoder_of(shard).sources)
        return shard.ledger


_EMPTY = Ledger().table(SourceTable())
