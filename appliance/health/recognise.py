"""Finding canaries among datagrams: in a journal block as they arrive, and before decoding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from appliance.batch import DatagramBatch
from appliance.health.canary import LENGTH, MAGIC, PREFIX_BYTES, number_of
from appliance.journal.block import SLOT_BYTES, Block


class Recogniser:
    """Knows the canaries of one key."""

    def __init__(self, key: bytes) -> None:
        self._prefix = np.frombuffer(MAGIC + key, np.uint8)

    def _are(self, buffer: NDArray[np.uint8], offset: NDArray[np.int64]) -> NDArray[np.bool_]:
        head = buffer[offset[:, None] + np.arange(PREFIX_BYTES)]
        are: NDArray[np.bool_] = (head == self._prefix).all(axis=1)
        return are

    def newest(self, block: Block, first: int, length: NDArray[np.uint32]) -> tuple[int, int]:
        """``(how many, number of the newest)`` of the canaries in the slots from ``first`` on.

        ``length``: the lengths of what is in these slots.
        """
        fits = length == LENGTH
        if not np.count_nonzero(fits):
            return 0, 0
        offset = block.geometry.payload + (first + np.flatnonzero(fits)) * SLOT_BYTES
        offset = offset[self._are(block.buffer, offset)]
        if not len(offset):
            return 0, 0
        last = int(offset[-1])
        return len(offset), number_of(block.buffer[last : last + LENGTH].tobytes())

    def without(self, batch: DatagramBatch) -> tuple[DatagramBatch, int]:
        """``batch`` without its canaries, and how many there were."""
        fits = np.flatnonzero(batch.length == LENGTH)
        if len(fits):
            fits = fits[self._are(batch.buffer, batch.offset[fits])]
        if not len(fits):
            return batch, 0
        keep = np.ones(len(batch), np.bool_)
        keep[fits] = False
        return batch.select(np.flatnonzero(keep)), len(fits)
