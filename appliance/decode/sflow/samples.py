"""The heads of sFlow's samples: flow, counter and discard samples, compact and expanded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.decode.packet.frames import I64, U8, Mask, block
from appliance.decode.sflow.walk import Units

FLOW, COUNTER, EXPANDED_FLOW, EXPANDED_COUNTER, DISCARD = 1, 2, 3, 4, 5
FLOW_KINDS = (FLOW, EXPANDED_FLOW, DISCARD)
COUNTER_KINDS = (COUNTER, EXPANDED_COUNTER)
OTHER = 6
"""Stands for all kinds that are not known."""

_HEADS: dict[int, tuple[str, ...]] = {
    FLOW: ("sequence", "source", "sampling_rate", "sample_pool", "drops", "input", "output"),
    EXPANDED_FLOW: (
        "sequence",
        "source_type",
        "source_index",
        "sampling_rate",
        "sample_pool",
        "drops",
        "in_if_format",
        "in_if",
        "out_if_format",
        "out_if",
    ),
    DISCARD: (
        "sequence",
        "source_type",
        "source_index",
        "drops",
        "in_if",
        "out_if",
        "discard_reason",
    ),
    COUNTER: ("sequence", "source"),
    EXPANDED_COUNTER: ("sequence", "source_type", "source_index"),
}
"""Words before the number of records; ``source``, ``input`` and ``output`` hold two values each."""

_HEAD_BYTES = {kind: 4 * len(names) + 4 for kind, names in _HEADS.items()}
_VALUE_BITS = 30
_LEAST = np.zeros(OTHER + 1, np.int64)
_LEAST[list(_HEAD_BYTES)] = list(_HEAD_BYTES.values())
_IS_FLOW = np.isin(np.arange(OTHER + 1), FLOW_KINDS)
_IS_COUNTER = np.isin(np.arange(OTHER + 1), COUNTER_KINDS)


@dataclass(slots=True)
class Heads:
    """The heads of ``n`` samples, and where their records are."""

    fields: dict[str, tuple[NDArray[np.uint32], Mask | None]]
    """``uint32 (n,)`` each, and which samples have it (None: all)."""
    declared: NDArray[np.uint32]
    """``uint32 (n,)``: records that each sample says it has."""
    records: I64
    """``int64 (n,)``: where the first record starts."""


@dataclass(slots=True)
class Sorted:
    """Which of ``n`` samples are what: ``bool (n,)`` each."""

    flows: Mask
    counters: Mask
    short: Mask
    """Flow and counter samples that are shorter than their heads; in none of the others."""


def sort(samples: Units) -> Sorted:
    """Tell the kinds of samples apart."""
    kind = np.minimum(samples.format, OTHER).astype(np.int64)
    whole = samples.end - samples.start >= _LEAST[kind]
    return Sorted(_IS_FLOW[kind] & whole, _IS_COUNTER[kind] & whole, ~whole)


def _split(kind: int, name: str, word: NDArray[Any]) -> dict[str, NDArray[np.uint32]]:
    values = word.astype(np.uint32)
    if name == "source":
        return {
            "source_type": values >> np.uint32(24),
            "source_index": values & np.uint32(0xFFFFFF),
        }
    if name in ("input", "output"):
        name = "in_if" if name == "input" else "out_if"
        return {
            name: values & np.uint32((1 << _VALUE_BITS) - 1),
            name + "_format": values >> np.uint32(_VALUE_BITS),
        }
    return {name: values}


def read_heads(buffer: U8, samples: Units, kinds: tuple[int, ...]) -> Heads:
    """Read the heads of ``samples``, which are of ``kinds`` and long enough for their heads."""
    n = len(samples)
    present = [k for k in kinds if (samples.format == k).any()]
    out = Heads({}, np.zeros(n, np.uint32), np.zeros(n, np.int64))
    for kind in present:
        rows = None if len(present) == 1 else np.flatnonzero(samples.format == kind)
        start = samples.start if rows is None else samples.start[rows]
        words = block(buffer, start, _HEAD_BYTES[kind]).view(">u4")
        fields = {
            name: values
            for i, head in enumerate(_HEADS[kind])
            for name, values in _split(kind, head, words[:, i]).items()
        }
        if rows is None:
            out.fields = {name: (values, None) for name, values in fields.items()}
            out.declared = words[:, -1].astype(np.uint32)
            out.records = start + _HEAD_BYTES[kind]
            continue
        out.declared[rows] = words[:, -1]
        out.records[rows] = start + _HEAD_BYTES[kind]
        for name, values in fields.items():
            if name not in out.fields:
                out.fields[name] = (np.zeros(n, np.uint32), np.zeros(n, np.bool_))
            column, valid = out.fields[name]
            column[rows] = values
            if valid is not None:
                valid[rows] = True
    return out
