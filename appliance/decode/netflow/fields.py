"""From located fields to columns: the abstract types of RFC 7012, section 3.1, as RFC 7011,
section 6 encodes them, for all records of a layout at once.

A length that a type cannot have is no error: the caller keeps such octets as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from appliance.batch import U8
from appliance.columns import Column
from appliance.decode.netflow.layout import VARIABLE, Field
from appliance.decode.netflow.records import I64, Records
from appliance.schema import ADDRESS

Mask = NDArray[np.bool_]
Converted = tuple[Column, Mask | None]
"""A column and the rows whose value does not fit its type, if there are any."""

NTP_EPOCH_S = 2_208_988_800
"""Seconds from 1900 to 1970 (RFC 5905, section 6)."""
MAX_S = (1 << 63) // 1_000_000_000
MAX_MS = (1 << 63) // 1_000_000
MAX_US = (1 << 63) // 1_000

_HEX = np.frombuffer(b"".join(f"{i:02x}".encode() for i in range(256)), np.uint16)
"""``uint16 (256,)``: the two hexadecimal digits of a byte."""

_MAPPED = int(np.frombuffer(b"\0\0\xff\xff", np.uint32)[0])


def integers(records: Records, field: Field) -> tuple[NDArray[Any], Mask | None] | None:
    """Unsigned integers of a field of 1 to 8 octets: big-endian view or ``uint64``; else None."""
    length = field.length
    if length == VARIABLE:
        offset, lengths = records.values[field.segment]
        value = np.zeros(len(records), np.uint64)
        for k in range(8):
            has = (lengths > k) & (lengths <= 8)
            if not has.any():
                break
            value[has] = value[has] << np.uint64(8) | records.buffer[offset[has] + k]
        return value, (lengths > 0) & (lengths <= 8)
    if length in (1, 2, 4, 8):
        return records.view(field, f">u{length}"), None
    if length > 8:
        return None
    value = np.zeros(len(records), np.uint64)
    skip = 0
    for size in (4, 2, 1):
        if length & size:
            part = records.view(field, f">u{size}", skip)
            value = value << np.uint64(8 * size) | part.astype(np.uint64)
            skip += size
    return value, None


def unsigned(records: Records, field: Field, type_: pa.DataType) -> Converted | None:
    """A column of an unsigned type; reduced-size encoding included (RFC 7011, section 6.2)."""
    found = integers(records, field)
    if found is None:
        return None
    values, valid = found
    dtype = np.dtype(type_.to_pandas_dtype())
    lost = None
    if values.dtype.itemsize > dtype.itemsize:
        lost = values > np.iinfo(dtype).max
        if lost.any():
            valid = ~lost if valid is None else valid & ~lost
        else:
            lost = None
    return Column(values.astype(dtype), type_, valid), lost


def signed(records: Records, field: Field, type_: pa.DataType) -> Converted | None:
    """A column of a signed type, sign extended."""
    found = integers(records, field)
    if found is None or field.length == VARIABLE:
        return None
    values = found[0].astype(np.uint64)
    shift = np.uint64(64 - 8 * field.length)
    wide = (values << shift).view(np.int64) >> np.int64(shift)
    limits = np.iinfo(type_.to_pandas_dtype())
    lost = (wide < limits.min) | (wide > limits.max)
    return Column(wide.astype(limits.dtype), type_, ~lost), lost if lost.any() else None


def floating(records: Records, field: Field, type_: pa.DataType) -> Converted | None:
    """A column of floats; a float64 may be sent as a float32."""
    if field.length not in (4, 8):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        values = records.view(field, f">f{field.length}").astype(type_.to_pandas_dtype())
    return Column(values, type_), None


def boolean(records: Records, field: Field) -> Converted | None:
    """1 is true and 2 is false (RFC 7011, section 6.1.5)."""
    if field.length != 1:
        return None
    values = records.view(field, "u1")
    return Column(values == 1, pa.bool_(), (values == 1) | (values == 2)), None


def mapped(octets4: NDArray[Any]) -> U8:
    """IPv4-mapped addresses ``uint8 (n, 16)`` of ``n`` native ``uint32`` in network order."""
    out = np.empty((len(octets4), 4), np.uint32)
    out.view(np.uint64)[:, 0] = 0
    out[:, 2] = _MAPPED
    out[:, 3] = octets4
    return out.view(np.uint8)


def address(records: Records, field: Field, prefix: bool = False) -> U8 | None:
    """``uint8 (n, 16)`` of an address field of 4 or 16 octets; prefixes may be shorter."""
    if field.length == 4:
        return mapped(records.view(field, "=u4"))
    if field.length == 16:
        return np.ascontiguousarray(records.octets(field))
    if prefix and field.length < 16:
        out = np.zeros((len(records), 16), np.uint8)
        out[:, : field.length] = records.octets(field)
        return out
    return None


def times(records: Records, field: Field, abstract: str) -> Converted | None:
    """``int64`` ns since the epoch; what no 64-bit number of ns can hold is null."""
    found = integers(records, field)
    if found is None:
        return None
    values, valid = found
    wide = values.astype(np.uint64)
    if abstract == "dateTimeSeconds":
        good = wide < MAX_S
        ns = wide.astype(np.int64) * 1_000_000_000
    elif abstract == "dateTimeMilliseconds":
        good = wide < MAX_MS
        ns = wide.astype(np.int64) * 1_000_000
    else:
        ns, good = ntp(wide)
    if valid is not None:
        good &= valid
    return Column(ns, pa.int64(), good), None


def ntp(stamps: NDArray[np.uint64]) -> tuple[I64, Mask]:
    """Nanoseconds since the epoch of 64-bit NTP time stamps; 0 and all ones mean: not known."""
    good = (stamps != 0) & (stamps != np.uint64(0xFFFFFFFFFFFFFFFF))
    seconds = (stamps >> np.uint64(32)).astype(np.int64)
    # era 1 begins in 2036
    seconds = np.where(seconds < NTP_EPOCH_S, seconds + (1 << 32), seconds) - NTP_EPOCH_S
    fraction = stamps & np.uint64(0xFFFFFFFF)
    ns = (fraction * np.uint64(1_000_000_000) + np.uint64(1 << 31)) >> np.uint64(32)
    return seconds * 1_000_000_000 + ns.astype(np.int64), good


def binary(records: Records, field: Field) -> pa.Array:
    """``pa.binary()`` of a field, whatever it is."""
    if field.length == VARIABLE:
        return _values(records.buffer, *records.values[field.segment])
    octets = np.ascontiguousarray(records.octets(field))
    offsets = np.arange(len(records) + 1, dtype=np.int32) * np.int32(field.length)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(octets)]
    return pa.Array.from_buffers(pa.binary(), len(records), buffers)


def _values(buffer: U8, offset: I64, length: I64) -> pa.Array:
    """Copy ``length`` bytes at each ``offset``: ``pa.binary()``.

    Values and the gaps between them, in the order of the buffer, are a binary array as they lie
    there; Arrow takes the values out of it, one memcpy each.
    """
    n = len(offset)
    if not n:
        return pa.array([], pa.binary())
    order = None
    if (np.diff(offset) < 0).any():
        order = np.argsort(offset, kind="stable")
        offset, length = offset[order], length[order]
    first = int(offset[0])
    bounds = np.empty(2 * n, np.int32)
    bounds[0::2] = offset - first
    bounds[1::2] = offset - first + length
    if (np.diff(bounds) < 0).any():
        # the same bytes more than once: a batch may say so, no exporter can
        texts = [buffer[a : a + k].tobytes() for a, k in zip(offset, length, strict=True)]
        taken = pa.array(texts, pa.binary())
    else:
        data = pa.py_buffer(buffer[first : first + int(bounds[-1])])
        lying = pa.Array.from_buffers(pa.binary(), 2 * n - 1, [None, pa.py_buffer(bounds), data])
        taken = lying.take(pa.array(np.arange(0, 2 * n, 2, dtype=np.int64)))
    if order is not None:
        back = np.empty(n, np.int64)
        back[order] = np.arange(n)
        taken = taken.take(pa.array(back))
    return taken


def _octets(values: pa.Array) -> tuple[NDArray[np.int32], U8]:
    """Offsets and data of a binary array without nulls that begins at its buffers' start."""
    _, offsets, data = values.buffers()
    bounds = np.frombuffer(offsets, np.int32)[: len(values) + 1]
    octets = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return bounds, octets[: int(bounds[-1])]


def _as_string(values: pa.Array) -> pa.Array:
    return pa.Array.from_buffers(pa.string(), len(values), values.buffers())


def text(records: Records, field: Field) -> pa.Array:
    """``pa.string()`` of a field up to the first NUL; what is not UTF-8 is replaced."""
    if field.length == VARIABLE:
        values = binary(records, field)
        if not len(values):
            return pa.array([], pa.string())
        _, data = _octets(values)
        plain = not len(data) or (int(data.min()) > 0 and int(data.max()) < 128)
        return _as_string(values) if plain else _decoded(values)
    octets = records.octets(field)
    empty = octets == 0
    length = np.argmax(empty, axis=1)
    length[~empty.any(axis=1)] = field.length
    data = octets[np.arange(field.length) < length[:, None]]
    offsets = np.zeros(len(records) + 1, np.int32)
    np.cumsum(length, out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    values = pa.Array.from_buffers(pa.binary(), len(records), buffers)
    return _as_string(values) if not len(data) or int(data.max()) < 128 else _decoded(values)


def _decoded(values: pa.Array) -> pa.Array:
    """Strings of binaries, one conversion for each different value."""
    coded = values.dictionary_encode()
    words = [w.partition(b"\0")[0].decode("utf-8", "replace") for w in coded.dictionary.to_pylist()]
    return pa.array(words, pa.string()).take(coded.indices)


def hexadecimal(records: Records, field: Field) -> pa.Array:
    """``pa.string()`` of lower-case hexadecimal digits of a field."""
    values = binary(records, field)
    if not len(values):
        return pa.array([], pa.string())
    offsets, data = _octets(values)
    buffers = [None, pa.py_buffer(offsets * np.int32(2)), pa.py_buffer(_HEX[data])]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def convert(records: Records, field: Field, abstract: str, type_: pa.DataType) -> Converted | None:
    """The column of ``field`` by its abstract type; None if its length is not one of the type."""
    if abstract.startswith("unsigned") or abstract == "macAddress":
        return unsigned(records, field, type_)
    if abstract.startswith("dateTime"):
        return times(records, field, abstract)
    if abstract.startswith("signed"):
        return signed(records, field, type_)
    if abstract.startswith("float"):
        return floating(records, field, type_)
    if abstract == "boolean":
        return boolean(records, field)
    if abstract == "string":
        return Column(text(records, field), type_), None
    if abstract in ("ipv4Address", "ipv6Address"):
        values = address(records, field)
        return None if values is None else (Column(values, ADDRESS), None)
    if abstract == "octetArray":
        return Column(binary(records, field), type_), None
    return None
