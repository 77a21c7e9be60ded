"""Long lists of numbers as short texts, for documents that nodes and clients hand each other."""

from __future__ import annotations

import base64
import zlib

import numpy as np

from appliance.drill.streams import I64

MOST_DATAGRAMS = 1 << 20
"""Of a load."""


def packed(values: I64) -> str:
    """Numbers as text, the shorter the less they differ from one to the next."""
    steps = np.diff(values, prepend=0)
    return base64.b64encode(zlib.compress(steps.astype("<i8").tobytes(), 9)).decode()


def unpacked(text: str) -> I64:
    """What :func:`packed` wrote; raises ValueError."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), 8 * MOST_DATAGRAMS)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(data) % 8 or unpacker.unconsumed_tail:
        raise ValueError("not a list of numbers, or too long")
    return np.cumsum(np.frombuffer(data, "<i8")).astype(np.int64)
