"""What a sender and its judge agree on: streams of numbered records, and where the number is.

A load is one or more streams, one for each export protocol; to a collector each of them is a source
of its own (exporter, protocol, domain). Its datagrams and its records are numbered from 0, and the
64-bit number of a record is in its addresses and its source port, which every protocol has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.schema import ExportProtocol

I64 = NDArray[np.int64]

SOURCE_NETWORK, TARGET_NETWORK = 10 << 24, 11 << 24
"""10.0.0.0/8 and 11.0.0.0/8; the lower 24 bits of the addresses are parts of the number."""
LOW = (1 << 24) - 1
NUMBER_SQL = (
    "((src_addr::UHUGEINT & 16777215)::BIGINT | ((dst_addr::UHUGEINT & 16777215)::BIGINT << 24)"
    " | (src_port::BIGINT << 48))"
)
"""SQL: the number of a stored record."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """One export protocol."""

    number: ExportProtocol
    numbers_records: bool
    """Whether sequence numbers count records; else datagrams."""
    has_templates: bool = False

    def units(self, records: int) -> int:
        """By how much the sequence number grows with a datagram of so many records."""
        return records if self.numbers_records else 1


PROTOCOLS = {
    "v5": Protocol(ExportProtocol.NETFLOW_V5, numbers_records=True),
    "v9": Protocol(ExportProtocol.NETFLOW_V9, numbers_records=False, has_templates=True),
    "ipfix": Protocol(ExportProtocol.IPFIX, numbers_records=True, has_templates=True),
    "sflow": Protocol(ExportProtocol.SFLOW_V5, numbers_records=False),
}

MAX_RUN = 0xFFFF
"""The run is the observation domain, which has 16 bits in NetFlow v5."""
MAX_RECORDS = 28
"""Records of a datagram; with so many, IPFIX with its template still fits an Ethernet frame."""


def split(number: I64) -> tuple[I64, I64, I64]:
    """Source address, target address and source port that say ``number``."""
    return SOURCE_NETWORK | number & LOW, TARGET_NETWORK | number >> 24 & LOW, number >> 48 & 0xFFFF
