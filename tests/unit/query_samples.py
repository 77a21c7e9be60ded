"""Small data directories with known flow records, for the tests of queries and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from appliance.schema import ADDRESS, CANONICAL
from appliance.store import manifest as manifests
from appliance.store.files import METADATA_KEY, SegmentName
from appliance.store.manifest import Part, Range
from tests.unit.store_samples import HOUR, T0, address, summary_of, write_hot

SECOND = 10**9
__all__ = ["HOUR", "SECOND", "T0", "address", "pack", "record", "rows", "store", "write_hot"]


def rows(records: list[dict[str, Any]], types: dict[str, pa.DataType] | None = None) -> pa.Table:
    """A table with the columns that any of ``records`` has; addresses are texts."""
    names = list(dict.fromkeys(name for record in records for name in record))
    known = {**CANONICAL, **(types or {})}
    columns = {}
    for name in names:
        values = [record.get(name) for record in records]
        if known[name] == ADDRESS:
            packed = pa.array([None if v is None else address(v) for v in values], pa.binary(16))
            columns[name] = pa.ExtensionArray.from_storage(ADDRESS, packed)
        else:
            columns[name] = pa.array(values, known[name])
    return pa.table(columns)


def record(at: int, **values: Any) -> dict[str, Any]:
    """A flow record that arrived ``at`` seconds after T0, of a known sampling rate of 1."""
    base = {"exporter": "192.0.2.1", "sampling_rate": 1, "sampling_source": 1}
    return {"received_ns": T0 + at * SECOND, **base, **values}


def store(data_dir: Path, *tables: pa.Table) -> Path:
    """Each table as a hot segment of flows in ``data_dir``."""
    for number, table in enumerate(tables):
        write_hot(data_dir / "store" / "flows", table, number)
    return data_dir


def pack(data_dir: Path, table: pa.Table, first: int, last: int) -> Path:
    """``table`` as a Parquet file that supersedes the segments first to last; its path."""
    folder = data_dir / "store" / "flows"
    summary = summary_of(table)
    name = SegmentName.packed("node-a", 0, first, last, "2023111422")
    path = folder / name.relative
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: summary.to_json()}), path)
    part = Part("2023111422", len(table), path.stat().st_size, summary.min_ns, summary.max_ns)
    manifests.commit(folder, (), [Range("node-a", 0, first, last, T0, (part,))])
    return path
