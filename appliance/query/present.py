"""Query results in types that every reader understands.

DuckDB's UUIDs become address texts, MAC columns become texts, timestamps whole microseconds (more
than Python's datetime holds), and 128-bit sums become 64-bit integers, or floats where they do not
fit. Everything else stays.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from appliance.query.terms import is_mac
from appliance.query.values import address_text, mac_text

_WIDE = pa.decimal128(38, 0)


def present(table: pa.Table, types: list[str]) -> pa.Table:
    """``table`` with presentable columns; ``types``: DuckDB's type of each."""
    columns = []
    for field, column, type_ in zip(table.schema, table.columns, types, strict=True):
        if type_ == "UUID":
            column = _each(column.cast(pa.string()), _address)
        elif field.type == pa.uint64() and is_mac(field.name):
            column = _each(column, mac_text)
        elif pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            column = column.cast(pa.timestamp("us", field.type.tz), safe=False)
        elif field.type == _WIDE:
            column = _narrow(column)
        columns.append(column)
    return pa.Table.from_arrays(columns, names=table.column_names)


def _address(text: str) -> str:
    return address_text(uuid.UUID(text).int)


def _each(column: pa.ChunkedArray, text: Callable[..., str]) -> pa.ChunkedArray:
    """``text`` of each value, called once for each distinct one."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    texts = pa.array([text(value) for value in encoded.dictionary.to_pylist()], pa.string())
    return pa.chunked_array([texts.take(encoded.indices)])


def _narrow(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return pc.cast(column, pa.int64())
    except pa.ArrowInvalid:
        return pc.cast(column, pa.float64())
