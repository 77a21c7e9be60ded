"""Reads of many big-endian integers at once, at any byte offsets of a buffer.

Callers check bounds first: every ``offset + size`` must be at most ``len(buffer)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
Index = NDArray[np.int64]


def records(buffer: U8, offset: Index, size: int) -> U8:
    """Copy ``size`` bytes at each of ``n`` offsets: uint8 ``(n, size)``, one memcpy a record."""
    windows = np.ndarray((max(len(buffer) - size + 1, 0),), f"V{size}", buffer, strides=(1,))
    return windows[offset].view(np.uint8).reshape(len(offset), size)


def _take(buffer: U8, offset: Index, dtype: str) -> NDArray[Any]:
    size = np.dtype(dtype).itemsize
    windows = np.ndarray((max(len(buffer) - size + 1, 0),), f"V{size}", buffer, strides=(1,))
    return windows[offset].view(dtype)


def u8(buffer: U8, offset: Index) -> NDArray[np.uint8]:
    """``uint8`` at each offset."""
    return buffer[offset]


def u16(buffer: U8, offset: Index) -> NDArray[np.uint16]:
    """``uint16`` at each offset."""
    return _take(buffer, offset, ">u2").astype(np.uint16)


def u32(buffer: U8, offset: Index) -> NDArray[np.uint32]:
    """``uint32`` at each offset."""
    return _take(buffer, offset, ">u4").astype(np.uint32)


def u64(buffer: U8, offset: Index) -> NDArray[np.uint64]:
    """``uint64`` at each offset."""
    return _take(buffer, offset, ">u8").astype(np.uint64)


def ranges(start: Index, count: Index, step: int | Index = 1) -> tuple[Index, Index]:
    """Concatenate ``start[i] + step * arange(count[i])``; also the ``i`` of each element.

    >>> ranges(np.array([10, 50]), np.array([2, 3]), 4)[0].tolist()
    [10, 14, 50, 54, 58]
    """
    owner = np.repeat(np.arange(len(count), dtype=np.int64), count)
    first = np.cumsum(count) - count
    within: Index = np.arange(len(owner), dtype=np.int64) - first[owner]
    if isinstance(step, np.ndarray):
        return start[owner] + within * step[owner], owner
    return start[owner] + within * step, owner
