"""What one node has of a drill's load: which datagrams, how often, and when each of them came.

Each node says it of its own store and ledger; whoever does the drill puts them together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from appliance.drill.packed import packed, unpacked
from appliance.drill.streams import I64, NUMBER_SQL
from appliance.query.engine import Engine, Window
from appliance.schema import CANONICAL
from appliance.store.files import Summary, snapshot


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one node. Arrays have an entry for each datagram that is stored in whole, ascending."""

    exporters: tuple[str, ...]
    """Addresses from which the node had the load."""
    number: I64
    times: I64
    """How often it is stored."""
    received_ns: I64
    """When it first came, by the node's clock."""
    partly: int
    """Datagrams of which only some records are stored."""
    durable_ns: int | None
    """When the first flow record from a moment on was written to disk; None where there is none, or
    its segment has been packed since."""

    def document(self) -> dict[str, Any]:
        """For another node."""
        return asdict(self) | {
            name: packed(getattr(self, name)) for name in ("number", "times", "received_ns")
        }

    @classmethod
    def read(cls, document: dict[str, Any]) -> Self:
        """What :meth:`document` made; raises ValueError, KeyError or TypeError."""
        arrays = {n: unpacked(document[n]) for n in ("number", "times", "received_ns")}
        if len({len(a) for a in arrays.values()}) != 1:
            raise ValueError("the lists differ in length")
        return cls(**{**document, "exporters": tuple(document["exporters"]), **arrays})


_NONE: I64 = np.zeros(0, np.int64)
NOTHING = Evidence((), _NONE, _NONE, _NONE, partly=0, durable_ns=None)
_READ = ("exporter", "observation_domain", "received_ns", "src_addr", "dst_addr", "src_port")


def gather(engine: Engine, domain: int, records: int, since_ns: int, after_ns: int) -> Evidence:
    """What the store has of the load in ``domain`` that arrived from ``since_ns`` on.

    ``records``: of a datagram. ``after_ns``: :attr:`Evidence.durable_ns` is that of the first flow
    record that arrived from then on. Raises QueryError.
    """
    table = engine.execute(
        f"SELECT exporter, {NUMBER_SQL} AS number, received_ns FROM flows "
        "WHERE observation_domain = $domain AND received_ns >= $since",
        {"domain": domain, "since": since_ns},
        window=Window(since_ns, None),
        columns={name: CANONICAL[name] for name in _READ},
    )
    if not table.num_rows:
        return NOTHING
    number, received = (table[name].to_numpy() for name in ("number", "received_ns"))
    order = np.lexsort((received, number))
    distinct, first, times = np.unique(number[order], return_index=True, return_counts=True)
    came = received[order][first]
    datagram, begin, parts = np.unique(distinct // records, return_index=True, return_counts=True)
    whole = parts == records
    later = received[received >= after_ns]
    exporters = tuple(sorted(set(table["exporter"].to_pylist())))
    return Evidence(
        exporters=exporters,
        number=datagram[whole],
        times=np.minimum.reduceat(times, begin)[whole].astype(np.int64),
        received_ns=np.minimum.reduceat(came, begin)[whole],
        partly=int((~whole).sum()),
        durable_ns=_durable_ns(engine, int(later.min()), exporters) if len(later) else None,
    )


def _durable_ns(engine: Engine, arrived_ns: int, exporters: tuple[str, ...]) -> int | None:
    """When the segment with what arrived then was written; packed ones do not say."""
    try:
        files = snapshot(engine.store / "flows", arrived_ns, arrived_ns + 1)
        mine = [f for f in files if f.name.hour is not None or _has(f.path, exporters)]
        if len(mine) == 1 and mine[0].name.hour is None:
            return mine[0].path.stat().st_mtime_ns
    except (OSError, ValueError):
        pass  # packed meanwhile
    return None


def _has(hot: Path, exporters: tuple[str, ...]) -> bool:
    """Whether the segment has records of any of them."""
    with pa.memory_map(str(hot)) as source:
        summary = Summary.of(pa.ipc.open_file(source).schema.metadata)
    return not summary.exporters.keys().isdisjoint(exporters)
