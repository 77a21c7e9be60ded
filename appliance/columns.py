"""From decoded NumPy columns to Arrow: the only place where FlowBatches are built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from appliance.schema import ADDRESS

Mask = NDArray[np.bool_]


@dataclass(slots=True)
class Column:
    """One column: ``values`` and, where some rows have none, ``valid`` (bool, True = present).

    ``values`` is a 1-D ndarray of the column's dtype; or uint8 ``(n, 16)`` for addresses; or a
    ready ``pa.Array`` (strings, binaries, lists, maps), which carries its own nulls.
    """

    values: NDArray[Any] | pa.Array
    type: pa.DataType
    valid: Mask | None = None


@dataclass(slots=True)
class Columns:
    """``n`` decoded rows of one batch: named columns, and the datagram that each row is from."""

    datagram: NDArray[np.int64]
    """``int64 (n,)``: index of the row's datagram in the DatagramBatch."""
    source: NDArray[np.int64]
    """``int64 (n,)``: the row's source (see decode.sources)."""
    columns: dict[str, Column] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.datagram)

    def set(
        self,
        name: str,
        values: NDArray[Any] | pa.Array,
        type_: pa.DataType,
        valid: Mask | None = None,
    ) -> None:
        """Set column ``name``; replaces what was there."""
        self.columns[name] = Column(values, type_, valid)


def merge(parts: list[Columns]) -> list[Columns]:
    """``parts`` with those that have the same columns joined: fewer, longer batches."""
    alike: dict[tuple[tuple[str, int], ...], list[Columns]] = {}
    for part in parts:
        key = tuple(sorted((name, id(c.type)) for name, c in part.columns.items()))
        alike.setdefault(key, []).append(part)
    return [group[0] if len(group) == 1 else _joined(group) for group in alike.values()]


def _joined(parts: list[Columns]) -> Columns:
    joined = Columns(
        np.concatenate([part.datagram for part in parts]),
        np.concatenate([part.source for part in parts]),
    )
    for name, first in parts[0].columns.items():
        columns = [part.columns[name] for part in parts]
        values = [c.values for c in columns]
        valid = None
        if any(c.valid is not None for c in columns):
            valid = np.concatenate(
                [np.ones(len(c.values), np.bool_) if c.valid is None else c.valid for c in columns]
            )
        if isinstance(first.values, pa.Array):
            joined.columns[name] = Column(pa.concat_arrays(values), first.type, valid)
        else:
            joined.columns[name] = Column(np.concatenate(values), first.type, valid)
    return joined


_DTYPES: dict[int, tuple[pa.DataType, np.dtype[Any]]] = {}
"""NumPy's type by the identity of Arrow's; the latter is kept, so that it stays its own."""
_SCHEMAS: dict[tuple[str, ...], tuple[list[pa.DataType], pa.Schema]] = {}
"""Types and schema of batches made before, by the names of their columns."""
MAX_SCHEMAS = 4096


def _dtype(type_: pa.DataType) -> np.dtype[Any]:
    """NumPy's type for ``type_``; asking Arrow takes longer than copying a short column."""
    found = _DTYPES.get(id(type_))
    if found is None:
        found = _DTYPES[id(type_)] = type_, np.dtype(type_.to_pandas_dtype())
    return found[1]


def to_arrow(column: Column) -> pa.Array:
    """Arrow array of ``column``, sharing its memory where the dtype already fits."""
    values = column.values
    if isinstance(values, pa.Array):
        return values
    n = len(values)
    validity = None
    nulls = 0
    if column.valid is not None:
        nulls = n - int(np.count_nonzero(column.valid))
        if nulls:
            validity = pa.py_buffer(np.packbits(column.valid, bitorder="little"))
    if values.ndim == 2:
        data = pa.py_buffer(np.ascontiguousarray(values, np.uint8))
        storage = pa.Array.from_buffers(pa.binary(16), n, [validity, data], nulls)
        return pa.ExtensionArray.from_storage(ADDRESS, storage)
    dtype = _dtype(column.type)
    if dtype == np.bool_:
        data = pa.py_buffer(np.packbits(np.asarray(values, np.bool_), bitorder="little"))
    else:
        data = pa.py_buffer(np.ascontiguousarray(values, dtype))
    return pa.Array.from_buffers(column.type, n, [validity, data], nulls)


def record_batch(columns: dict[str, Column]) -> pa.RecordBatch:
    """A RecordBatch of ``columns``, in their order."""
    names = tuple(columns)
    types = [c.type for c in columns.values()]
    known = _SCHEMAS.get(names)
    if known is None or known[0] != types:
        if len(_SCHEMAS) >= MAX_SCHEMAS:
            _SCHEMAS.clear()
        schema = pa.schema([pa.field(name, c.type) for name, c in columns.items()])
        known = _SCHEMAS[names] = types, schema
    return pa.RecordBatch.from_arrays([to_arrow(c) for c in columns.values()], schema=known[1])
