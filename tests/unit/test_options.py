"""Sampling rates and names that options data bring to flow records."""

from __future__ import annotations

import struct
from ipaddress import ip_network
from typing import Any

import pytest

from appliance.batch import IPV4_MAPPED_PREFIX, DatagramBatch
from appliance.decode import Decoder, Limits
from appliance.schema import SamplingSource
from tests import builders as b
from tests.decoding import flow_rows, registry

FLOW: list[b.Field] = [(0, 10, 4), (0, 14, 4), (0, 48, 1), (0, 234, 4), (0, 95, 4), (0, 1, 4)]
PLAIN: list[b.Field] = [(0, 1, 4)]


class Exporter:
    """One exporter and a decoder that hears it; its messages are IPFIX unless ``v9``."""

    def __init__(self, decoder: Decoder | None = None, *, v9: bool = False) -> None:
        self.decoder = decoder or Decoder(registry())
        self.v9 = v9

    def send(self, *sets: bytes, domain: int = 0, address: int = 1) -> Any:
        make = b.v9 if self.v9 else b.ipfix
        payload = make(list(sets), domain=domain)
        octets = IPV4_MAPPED_PREFIX + bytes([192, 0, 2, address])
        return self.decoder.decode(DatagramBatch.from_payloads([payload], octets), 0)

    def options(
        self,
        scopes: list[b.Field],
        fields: list[b.Field],
        *records: list[bytes],
        domain: int = 0,
        address: int = 1,
    ) -> Any:
        body = b"".join(b.record([*scopes, *fields], r) for r in records)
        template = b.options_set(300, scopes, fields, not self.v9)
        return self.send(template, b.set_of(300, body), domain=domain, address=address)

    def flow(
        self,
        in_if: int = 1,
        out_if: int = 2,
        sampler: int = 0,
        vrf: int = 0,
        app: int = 0,
        domain: int = 0,
        address: int = 1,
    ) -> dict[str, Any]:
        body = struct.pack(">IIBIII", in_if, out_if, sampler, vrf, app, 5)
        sets = [b.template_set(256, FLOW, not self.v9), b.set_of(256, body)]
        return flow_rows(self.send(*sets, domain=domain, address=address))[0]

    def plain(self, domain: int = 0, address: int = 1) -> dict[str, Any]:
        """A record that says nothing of samplers or interfaces."""
        sets = [b.template_set(257, PLAIN, not self.v9), b.set_of(257, bytes(4))]
        return flow_rows(self.send(*sets, domain=domain, address=address))[0]


def sampling(row: dict[str, Any]) -> tuple[int | None, int]:
    return row.get("sampling_rate"), row["sampling_source"]


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


UNKNOWN = (None, SamplingSource.UNKNOWN)


@pytest.mark.parametrize(
    ("fields", "values", "rate"),
    [
        ([(0, 34, 4)], [u32(1000)], 1000),
        ([(0, 50, 4), (0, 49, 1)], [u32(500), b"\2"], 500),
        ([(0, 305, 4), (0, 306, 4)], [u32(1), u32(99)], 100),
        ([(0, 305, 4), (0, 306, 4)], [u32(10), u32(90)], 10),
        ([(0, 305, 4)], [u32(64)], 64),
        ([(0, 309, 4), (0, 310, 4)], [u32(2), u32(512)], 256),
        ([(0, 305, 4), (0, 309, 4), (0, 310, 4)], [u32(1), u32(1), u32(256)], 256),
    ],
)
def test_every_encoding_of_a_rate_is_understood(
    fields: list[b.Field], values: list[bytes], rate: int
) -> None:
    exporter = Exporter()
    exporter.options([(0, 144, 4)], fields, [u32(1), *values])
    assert sampling(exporter.plain()) == (rate, SamplingSource.OPTIONS)


def test_without_any_word_on_sampling_the_rate_is_unknown_and_not_one() -> None:
    assert sampling(Exporter().plain()) == UNKNOWN


def test_a_rate_of_zero_says_nothing_and_takes_back_what_was_said() -> None:
    exporter = Exporter(v9=True)
    exporter.options([(0, 1, 4)], [(0, 34, 4)], [u32(1), u32(100)])
    assert sampling(exporter.plain()) == (100, SamplingSource.OPTIONS)
    exporter.options([(0, 1, 4)], [(0, 34, 4)], [u32(1), u32(0)])
    assert sampling(exporter.plain()) == UNKNOWN


def test_options_in_the_same_batch_count_for_data_before_them() -> None:
    exporter = Exporter()
    sets = [b.template_set(257, PLAIN, True), b.set_of(257, bytes(4))]
    options = b.options_set(300, [(0, 144, 4)], [(0, 34, 4)], True)
    body = b.set_of(300, u32(1) + u32(7))
    row = flow_rows(exporter.send(*sets, options, body))[0]
    assert sampling(row) == (7, SamplingSource.OPTIONS)


def test_records_take_the_rate_of_their_sampler() -> None:
    exporter = Exporter(v9=True)
    fields: list[b.Field] = [(0, 48, 1), (0, 50, 4)]
    exporter.options([(0, 1, 4)], fields, [u32(0), b"\1", u32(100)], [u32(0), b"\2", u32(2000)])
    assert sampling(exporter.flow(sampler=1)) == (100, SamplingSource.OPTIONS)
    assert sampling(exporter.flow(sampler=2)) == (2000, SamplingSource.OPTIONS)
    assert sampling(exporter.flow(sampler=3)) == UNKNOWN
    assert sampling(exporter.plain()) == UNKNOWN


def test_the_only_sampler_there_is_counts_for_records_that_name_none() -> None:
    exporter = Exporter()
    exporter.options([(0, 302, 8)], [(0, 305, 4), (0, 306, 4)], [bytes(8), u32(1), u32(9)])
    assert sampling(exporter.plain()) == (10, SamplingSource.OPTIONS)


def test_samplers_told_by_one_domain_count_for_the_other_domains_of_the_exporter() -> None:
    exporter = Exporter(v9=True)
    exporter.options([(0, 1, 4)], [(0, 48, 1), (0, 50, 4)], [u32(0), b"\1", u32(100)], domain=7)
    assert sampling(exporter.flow(sampler=1, domain=8)) == (100, SamplingSource.OPTIONS)
    assert sampling(exporter.plain(domain=9)) == (100, SamplingSource.OPTIONS)
    assert sampling(exporter.flow(sampler=1, domain=8, address=2)) == UNKNOWN


def test_rates_by_interface_count_for_the_ingress_interface() -> None:
    exporter = Exporter(v9=True)
    exporter.options([(0, 2, 4)], [(0, 34, 4)], [u32(3), u32(30)], [u32(4), u32(40)])
    assert sampling(exporter.flow(in_if=3)) == (30, SamplingSource.OPTIONS)
    assert sampling(exporter.flow(in_if=4)) == (40, SamplingSource.OPTIONS)
    assert sampling(exporter.flow(in_if=5)) == UNKNOWN


def test_what_the_record_says_is_better_than_options() -> None:
    exporter = Exporter()
    exporter.options([(0, 144, 4)], [(0, 34, 4)], [u32(1), u32(100)])
    fields: list[b.Field] = [(0, 1, 4), (0, 34, 4)]
    body = u32(1) + u32(8) + u32(1) + u32(0)
    rows = flow_rows(exporter.send(b.template_set(256, fields, True), b.set_of(256, body)))
    assert sampling(rows[0]) == (8, SamplingSource.RECORD)
    assert sampling(rows[1]) == (100, SamplingSource.OPTIONS)
    assert [r["sampling_interval"] for r in rows] == [8, 0]


def test_options_are_better_than_configuration_and_that_is_better_than_nothing() -> None:
    overrides = {ip_network("192.0.2.0/24"): 512, ip_network("192.0.2.9/32"): 64}
    exporter = Exporter(Decoder(registry(), overrides=overrides))
    assert sampling(exporter.plain()) == (512, SamplingSource.CONFIG)
    assert sampling(exporter.plain(address=9)) == (64, SamplingSource.CONFIG)
    exporter.options([(0, 144, 4)], [(0, 34, 4)], [u32(1), u32(100)])
    assert sampling(exporter.plain()) == (100, SamplingSource.OPTIONS)


def test_the_header_of_v5_is_better_than_configuration() -> None:
    decoder = Decoder(registry(), overrides={ip_network("192.0.2.0/24"): 512})
    octets = IPV4_MAPPED_PREFIX + bytes([192, 0, 2, 1])
    payloads = [b.v5([b.v5_record()], sampling=0x4000 | 100), b.v5([b.v5_record()])]
    rows = flow_rows(decoder.decode(DatagramBatch.from_payloads(payloads, octets), 0))
    assert [sampling(r) for r in rows] == [
        (100, SamplingSource.HEADER),
        (512, SamplingSource.CONFIG),
    ]


def test_interface_names_by_scope_or_by_field() -> None:
    exporter = Exporter(v9=True)
    names: list[b.Field] = [(0, 82, 8)]
    exporter.options([(0, 2, 4)], names, [u32(1), b"Gi0/1\0\0\0"], [u32(2), b"Gi0/2\0\0\0"])
    row = exporter.flow(in_if=1, out_if=2)
    assert (row["in_if_name"], row["out_if_name"]) == ("Gi0/1", "Gi0/2")
    ipfix = Exporter()
    ipfix.options([(0, 144, 4)], [(0, 10, 4), (0, 82, 4)], [u32(1), u32(5), b"eth5"])
    assert ipfix.flow(in_if=5)["in_if_name"] == "eth5"
    assert "out_if_name" not in ipfix.flow(in_if=5)


def test_names_belong_to_one_exporter() -> None:
    exporter = Exporter()
    exporter.options([(0, 10, 4)], [(0, 82, 4)], [u32(1), b"eth1"])
    assert exporter.flow(domain=5)["in_if_name"] == "eth1"
    assert "in_if_name" not in exporter.flow(address=2)


def test_vrf_and_application_names() -> None:
    exporter = Exporter()
    exporter.options([(0, 234, 4)], [(0, 236, 4)], [u32(7), b"blue"])
    exporter.options([(0, 95, 4)], [(0, 96, 8)], [u32(0x0D000001), b"web\0\0\0\0\0"])
    row = exporter.flow(vrf=7, app=0x0D000001)
    assert (row["in_vrf_name"], row["app_name"]) == ("blue", "web")
    assert "app_name" not in exporter.flow(app=3)


def test_options_survive_a_restart() -> None:
    exporter = Exporter()
    exporter.options([(0, 10, 4)], [(0, 82, 4)], [u32(1), b"eth1"])
    exporter.options([(0, 144, 4)], [(0, 34, 4)], [u32(1), u32(100)])
    exporter.options([(0, 95, 4)], [(0, 96, 4)], [u32(9), b"dns\0"])
    again = Exporter(Decoder(registry()))
    again.decoder.load(exporter.decoder.dump())
    row = again.flow(app=9)
    assert sampling(row) == (100, SamplingSource.OPTIONS)
    assert (row["in_if_name"], row["app_name"]) == ("eth1", "dns")


def test_the_revision_grows_with_news_only() -> None:
    exporter = Exporter()
    exporter.options([(0, 144, 4)], [(0, 34, 4)], [u32(1), u32(100)])
    revision = exporter.decoder.revision
    exporter.options([(0, 144, 4)], [(0, 34, 4)], [u32(1), u32(100)])
    assert exporter.decoder.revision == revision
    exporter.options([(0, 144, 4)], [(0, 34, 4)], [u32(1), u32(200)])
    assert exporter.decoder.revision > revision


def test_beyond_the_limit_the_oldest_name_goes() -> None:
    exporter = Exporter(Decoder(registry(), Limits(options_per_exporter=2)))
    names = [[u32(n), f"eth{n}".encode()] for n in (1, 2, 3)]
    exporter.options([(0, 10, 4)], [(0, 82, 4)], *names)
    assert "in_if_name" not in exporter.flow(in_if=1)
    assert exporter.flow(in_if=3)["in_if_name"] == "eth3"
    assert exporter.decoder.options.evicted == {1: 1}


def test_uptime_in_ipfix_counts_from_the_start_that_options_told() -> None:
    exporter = Exporter()
    began = struct.pack(">Q", 1_699_999_000_000)
    exporter.options([(0, 144, 4)], [(0, 160, 8)], [u32(1), began])
    fields: list[b.Field] = [(0, 22, 4)]
    (row,) = flow_rows(exporter.send(b.template_set(256, fields, True), b.set_of(256, u32(500))))
    assert row["start_ns"] == 1_699_999_000_500 * 10**6


def test_options_records_are_rows_with_scope_and_fields() -> None:
    exporter = Exporter(v9=True)
    decoded = exporter.options([(0, 2, 4)], [(0, 82, 4), (0, 34, 4)], [u32(3), b"eth3", u32(9)])
    (rows,) = decoded.options
    (row,) = rows.to_pylist()
    assert (row["template_id"], row["export_protocol"]) == (300, 9)
    assert row["scope"] == '{"interface": 3}'
    assert row["fields"] == '{"interface_name": "eth3", "sampling_interval": 9}'
    (record,) = decoded.options_records
    assert record.fields == {"interface_name": "eth3", "sampling_interval": 9}
    assert decoded.flows == []
    assert decoded.records.tolist() == [0]
