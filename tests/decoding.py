"""A decoder for tests, and its flow records as Python values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from appliance.decode import Decoded, Decoder
from appliance.decode.elements import Registry
from appliance.decode.limits import Limits

_REGISTRY: list[Registry] = []


def registry() -> Registry:
    """The registry of the package, read once."""
    if not _REGISTRY:
        _REGISTRY.append(Registry.load())
    return _REGISTRY[0]


def decoder(limits: Limits | None = None) -> Decoder:
    """A decoder that knows no exporter yet."""
    return Decoder(registry(), limits)


def flow_rows(decoded: Decoded) -> list[dict[str, Any]]:
    """Flow records without nulls, in the order of their datagrams."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for batch, datagram in zip(decoded.flows, decoded.flow_datagram, strict=True):
        for i, row in zip(datagram.tolist(), batch.to_pylist(), strict=True):
            rows.append((i, {k: v for k, v in row.items() if v is not None}))
    rows.sort(key=lambda pair: pair[0])
    return [row for _, row in rows]


def check(decoded: Decoded) -> None:
    """What holds of every result, whatever the input: raises AssertionError."""
    n = len(decoded.status)
    rows = np.zeros(n, np.int64)
    for batches, datagrams in (
        (decoded.flows, decoded.flow_datagram),
        (decoded.counters, decoded.counter_datagram),
    ):
        assert len(batches) == len(datagrams)
        for batch, datagram in zip(batches, datagrams, strict=True):
            # full: offsets, and whether strings are UTF-8
            batch.validate(full=True)
            assert len(batch) == len(datagram)
            assert ((datagram >= -1) & (datagram < n)).all()
            assert batch["exporter"].null_count == 0
            assert len(set(batch.schema.names)) == batch.num_columns
            assert not duplicates(batch)
            if batches is decoded.flows:
                rows += np.bincount(datagram[datagram >= 0], minlength=n)
    for batch in decoded.options:
        batch.validate(full=True)
    assert sum(map(len, decoded.options)) == len(decoded.options_records)
    assert (rows == decoded.records).all(), "records decoded are not the rows of each datagram"
    for error in decoded.errors:
        assert 0 <= error.datagram < n


def duplicates(batch: pa.RecordBatch) -> list[list[str]]:
    """Keys of ``extra`` that a row has twice: DuckDB refuses the whole file for them."""
    if "extra" not in batch.schema.names:
        return []
    rows = (([key for key, _ in row or ()]) for row in batch["extra"].to_pylist())
    return [keys for keys in rows if len(set(keys)) < len(keys)]
