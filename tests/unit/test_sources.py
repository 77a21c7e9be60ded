"""Exporters and sources by number: bounded, whatever addresses and domains are sent."""

from __future__ import annotations

import numpy as np

from appliance.decode.sources import OVERFLOW, SourceTable
from appliance.schema import ExportProtocol

SHARED = 2**32 - 1


def addresses(count: int) -> np.ndarray:
    octets = b"".join(i.to_bytes(16, "big") for i in range(1, count + 1))
    return np.frombuffer(octets, np.uint8).reshape(-1, 16)


def test_exporters_beyond_the_limit_share_one_number() -> None:
    table = SourceTable(max_exporters=4)
    numbers = table.exporters(addresses(10)).tolist()
    assert numbers == [1, 2, 3] + [OVERFLOW] * 7
    assert table.exporters(addresses(10)).tolist() == numbers


def test_domains_beyond_the_limit_of_an_exporter_share_one() -> None:
    table = SourceTable(max_domains=3)
    exporter = np.full(10, 1)
    numbers = table.intern(exporter, ExportProtocol.IPFIX, np.arange(10))
    assert [table.sources[n].domain for n in numbers] == [0, 1, 2] + [SHARED] * 7


def test_sources_are_bounded_in_all_and_no_exporter_is_left_out() -> None:
    table = SourceTable(max_sources=20)
    exporter, domain = np.repeat(np.arange(1, 11), 10), np.tile(np.arange(10), 10)
    numbers = table.intern(exporter, ExportProtocol.NETFLOW_V9, domain)
    assert len(table.sources) <= 20 + 10
    assert [table.sources[n].exporter for n in numbers] == exporter.tolist()


def test_numbers_are_the_same_after_a_restart() -> None:
    table = SourceTable()
    exporter = table.exporters(addresses(5))
    numbers = table.intern(exporter, ExportProtocol.IPFIX, np.arange(5))
    again = SourceTable()
    again.load(table.dump())
    assert again.exporters(addresses(5)).tolist() == exporter.tolist()
    assert again.intern(exporter, ExportProtocol.IPFIX, np.arange(5)).tolist() == numbers.tolist()
