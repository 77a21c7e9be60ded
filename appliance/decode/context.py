"""What one call of the decoder works on and fills: shared by all protocols, free of I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from appliance.batch import DatagramBatch
from appliance.columns import Columns


class Status(IntEnum):
    """What became of a datagram; every received datagram has exactly one, the largest that applies.

    The ledger counts datagrams by it: received = decoded + each of the others.
    """

    DECODED = 0
    """Everything in it was understood (options and counters included)."""
    HELD = 1
    """At least one set waits for its template."""
    MALFORMED_DATA = 2
    """A data record or sample does not fit its set, or its own length fields."""
    MALFORMED_TEMPLATE = 3
    """A template definition is not valid."""
    MALFORMED_LENGTH = 4
    """A set, sample or message length is not possible."""
    MALFORMED_HEADER = 5
    """Too short for the header that its version promises."""
    OVER_LIMIT = 6
    """Refused by a limit of this node (sets a datagram, templates an exporter, ...)."""
    UNKNOWN_VERSION = 7
    """No export protocol that this node knows."""
    REFUSED = 8
    """The exporter is not allowed."""


@dataclass(slots=True)
class DecodeError:
    """Why a part of a datagram could not be decoded."""

    datagram: int
    status: Status
    offset: int
    """Byte offset in the payload where it was noticed."""
    detail: str


@dataclass(slots=True)
class OptionsRecord:
    """One options data record: rare, so an object; kept for display and fed to the state."""

    datagram: int
    source: int
    template_id: int
    scope: dict[str, object]
    fields: dict[str, object]


MAX_ERRORS = 1000
"""Errors kept with their detail a batch; further ones are counted only."""


@dataclass(slots=True)
class DecodeContext:
    """One batch being decoded. Protocol modules append to and write into it, never read a clock.

    ``n`` is ``len(batch)``. A module gets the indices of its own datagrams, and touches no others.
    """

    batch: DatagramBatch
    exporter: NDArray[np.int64]
    """``int64 (n,)``: dense exporter numbers (see decode.sources.SourceTable)."""
    source: NDArray[np.int64]
    """``int64 (n,)``: dense source number; -1 until the module knows the observation domain."""
    status: NDArray[np.uint8]
    """``uint8 (n,)``: :class:`Status`; raise it with :meth:`mark`."""
    export_ns: NDArray[np.int64]
    """``int64 (n,)``: the header's export time; 0 where the protocol has none (sFlow)."""
    sequence: NDArray[np.int64]
    """``int64 (n,)``: the header's sequence number, -1 where there is none."""
    sequence_units: NDArray[np.int64]
    """``int64 (n,)``: by how much the next sequence number is larger; -1: cannot be known."""
    records: NDArray[np.int64]
    """``int64 (n,)``: flow records decoded of each datagram."""
    flows: list[Columns] = field(default_factory=list)
    counters: list[Columns] = field(default_factory=list)
    options: list[OptionsRecord] = field(default_factory=list)
    errors: list[DecodeError] = field(default_factory=list)

    @classmethod
    def of(cls, batch: DatagramBatch, exporter: NDArray[np.int64]) -> DecodeContext:
        """A fresh context for ``batch``."""
        n = len(batch)
        return cls(
            batch=batch,
            exporter=exporter,
            source=np.full(n, -1, np.int64),
            status=np.zeros(n, np.uint8),
            export_ns=np.zeros(n, np.int64),
            sequence=np.full(n, -1, np.int64),
            sequence_units=np.full(n, -1, np.int64),
            records=np.zeros(n, np.int64),
        )

    def mark(
        self,
        index: NDArray[np.int64],
        status: Status,
        offset: NDArray[np.int64] | int,
        detail: str,
    ) -> None:
        """Raise the status of the datagrams ``index`` and keep the errors, within bounds.

        ``offset``: byte offset in the payload, one or one each.
        """
        if not len(index):
            return
        np.maximum.at(self.status, index, np.uint8(status))
        if status is Status.HELD:
            return
        room = MAX_ERRORS - len(self.errors)
        where = np.broadcast_to(np.asarray(offset, np.int64), len(index))
        for i, at in zip(index[:room].tolist(), where[:room].tolist(), strict=True):
            self.errors.append(DecodeError(i, status, at, detail))
