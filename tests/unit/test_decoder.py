"""The decoder as a whole: versions, admission, holding, sequence units, state."""

from __future__ import annotations

import struct
from ipaddress import ip_network

import numpy as np
import pytest

from appliance.batch import IPV4_MAPPED_PREFIX, DatagramBatch
from appliance.decode import Decoded, Decoder, Limits, Status
from appliance.schema import CANONICAL, ExportProtocol
from tests import builders as b
from tests.decoding import flow_rows, registry

FIELDS: list[b.Field] = [(0, 1, 4)]
MINUTE = 60 * 10**9


def address(number: int) -> bytes:
    return IPV4_MAPPED_PREFIX + bytes([192, 0, 2, number])


def decode(
    decoder: Decoder,
    *payloads: bytes,
    received_ns: int | list[int] = 0,
    now_ns: int = 0,
    exporter: int = 1,
    port: int = 9995,
) -> Decoded:
    batch = DatagramBatch.from_payloads(list(payloads), address(exporter), received_ns, port)
    return decoder.decode(batch, now_ns)


def new(**limits: int) -> Decoder:
    return Decoder(registry(), Limits(**limits))


def template(number: int = 256) -> bytes:
    return b.template_set(number, FIELDS, ipfix=True)


def data(*values: int, number: int = 256) -> bytes:
    return b.set_of(number, struct.pack(f">{len(values)}I", *values))


def octets(decoded: Decoded) -> list[int]:
    return [r["bytes"] for r in flow_rows(decoded)]


def test_protocols_are_told_by_their_version_on_any_port() -> None:
    payloads = [
        b.v5([b.v5_record()]),
        b.v9([b.template_set(256, FIELDS, False), data(1)]),
        b.ipfix([template(), data(2)]),
        b.sflow([b.flow_sample([b.raw_header(bytes(64))])]),
    ]
    rows = flow_rows(decode(new(), *payloads))
    assert [r["export_protocol"] for r in rows] == [
        ExportProtocol.NETFLOW_V5,
        ExportProtocol.NETFLOW_V9,
        ExportProtocol.IPFIX,
        ExportProtocol.SFLOW_V5,
    ]


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (b"", Status.MALFORMED_HEADER),
        (b"\0\x05\0", Status.MALFORMED_HEADER),
        (b"\0\x09\0\0", Status.MALFORMED_HEADER),
        (b"\0\x0a\0\x10", Status.MALFORMED_HEADER),
        (b"\0\x06\0\0", Status.UNKNOWN_VERSION),
        (b"\0\x69\0\0", Status.UNKNOWN_VERSION),
        (b"\0\0\0\x04", Status.UNKNOWN_VERSION),
        (b"\xff" * 21, Status.UNKNOWN_VERSION),
    ],
)
def test_what_is_no_export_datagram_is_told_apart(payload: bytes, status: Status) -> None:
    good = b.v5([b.v5_record()])
    decoded = decode(new(), good, payload, good)
    assert decoded.status.tolist() == [Status.DECODED, status, Status.DECODED]
    assert (decoded.source >= 0).all()
    assert len(flow_rows(decoded)) == 2


def test_an_empty_batch_gives_nothing() -> None:
    decoded = decode(new())
    assert (decoded.flows, decoded.status.tolist()) == ([], [])


def test_exporters_outside_the_allow_list_are_refused() -> None:
    decoder = Decoder(registry(), allow=[ip_network("192.0.2.0/30"), ip_network("2001:db8::/32")])
    good = b.v5([b.v5_record()])
    assert decode(decoder, good, exporter=1).status.tolist() == [Status.DECODED]
    refused = decode(decoder, good, exporter=9)
    assert refused.status.tolist() == [Status.REFUSED]
    assert refused.flows == []


def test_every_row_says_who_sent_it_and_when() -> None:
    decoder = new()
    message = b.ipfix([template(), data(1, 2)], domain=77, seconds=1_700_000_000)
    (batch,) = decode(decoder, message, received_ns=123, port=4711).flows
    first, second = batch.to_pylist()
    assert first["received_ns"] == second["received_ns"] == 123
    assert first["exporter"].bytes == address(1)
    assert (first["exporter_port"], first["observation_domain"]) == (4711, 77)
    assert first["export_ns"] == 1_700_000_000 * 10**9
    assert first["template_id"] == 256
    for field in batch.schema:
        assert field.type == CANONICAL[field.name]


def test_held_data_is_decoded_with_its_own_time_when_its_template_comes() -> None:
    decoder = new()
    held = b.ipfix([data(7, 8)], domain=5, seconds=1_600_000_000)
    decoded = decode(decoder, held, received_ns=111, port=1234)
    assert decoded.status.tolist() == [Status.HELD]
    later = decode(decoder, b.ipfix([template()], domain=5), received_ns=999, now_ns=999)
    rows = flow_rows(later)
    assert [r["bytes"] for r in rows] == [7, 8]
    assert {r["received_ns"] for r in rows} == {111}
    assert {r["export_ns"] for r in rows} == {1_600_000_000 * 10**9}
    assert {r["exporter_port"] for r in rows} == {1234}
    assert later.flow_datagram[0].tolist() == [-1, -1]
    source = int(decoded.source[0])
    assert (later.released, later.released_records) == ({(source, Status.DECODED): 1}, {source: 2})
    assert later.records.tolist() == [0]
    assert decode(decoder, b.ipfix([template()], domain=5)).flows == []


def test_the_known_sets_of_a_datagram_do_not_wait_for_the_unknown_ones() -> None:
    decoder = new()
    decode(decoder, b.ipfix([template(256)]))
    mixed = decode(decoder, b.ipfix([data(1), data(2, number=257), data(3, number=258)]))
    assert (octets(mixed), mixed.status.tolist()) == ([1], [Status.HELD])
    first = decode(decoder, b.ipfix([template(257)]))
    assert (octets(first), first.released) == ([2], {})
    second = decode(decoder, b.ipfix([template(258)]))
    assert octets(second) == [3]
    assert list(second.released.values()) == [1]


def test_held_v9_data_keeps_the_uptime_of_its_header() -> None:
    fields: list[b.Field] = [(0, 22, 4)]
    decoder = new()
    body = b.set_of(256, struct.pack(">I", 1000))
    decode(decoder, b.v9([body], uptime=3000, seconds=1_600_000_000))
    later = decode(decoder, b.v9([b.template_set(256, fields, False)], uptime=9_999_999))
    assert flow_rows(later)[0]["start_ns"] == 1_600_000_000 * 10**9 - 2 * 10**9


def test_held_data_expires() -> None:
    decoder = new(held_ns=MINUTE)
    held = decode(decoder, b.ipfix([data(1)]), received_ns=0, now_ns=0)
    assert decode(decoder, b.v5(), now_ns=MINUTE - 1).expired == {}
    late = decode(decoder, b.v5(), now_ns=MINUTE)
    assert late.expired == {int(held.source[0]): 1}
    assert decode(decoder, b.ipfix([template()]), now_ns=MINUTE).flows == []


def test_held_data_is_bounded_by_bytes_and_the_newest_goes() -> None:
    decoder = new(held_bytes_per_exporter=2000)
    messages = [b.ipfix([data(*[i] * 100)]) for i in range(10)]
    held = decode(decoder, *messages)
    evicted = sum(held.evicted.values())
    assert 0 < evicted < 10
    later = decode(decoder, b.ipfix([template()]))
    assert sorted(set(octets(later))) == list(range(10 - evicted))
    assert sum(later.released.values()) == 10 - evicted


def test_one_exporters_held_data_do_not_push_out_anothers() -> None:
    decoder = new(held_bytes_per_exporter=2000)
    decode(decoder, b.ipfix([data(1)]), exporter=2)
    decode(decoder, *[b.ipfix([data(*[3] * 100)])] * 20, exporter=1)
    assert octets(decode(decoder, b.ipfix([template()]), exporter=2)) == [1]


def test_everything_held_is_bounded_too() -> None:
    decoder = new(held_bytes=3000)
    for exporter in range(1, 30):
        decode(decoder, b.ipfix([data(*[3] * 20)]), exporter=exporter)
    assert decoder.held_bytes <= 3000


def test_state_survives_a_restart_with_templates_and_held_data() -> None:
    before = new()
    decode(before, b.ipfix([template(300)], domain=9), exporter=3, now_ns=5)
    waiting = decode(before, b.ipfix([data(4)], domain=9), received_ns=42, exporter=3)
    after = new()
    after.load(before.dump(), before.dump_held(everything=True))
    assert after.templates() == before.templates()
    assert octets(decode(after, b.ipfix([data(6, number=300)], domain=9), exporter=3)) == [6]
    released = decode(after, b.ipfix([template()], domain=9), exporter=3)
    assert [(r["bytes"], r["received_ns"]) for r in flow_rows(released)] == [(4, 42)]
    assert released.released == {(int(waiting.source[0]), Status.DECODED): 1}


def test_a_state_of_another_version_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="version 99"):
        new().load(b'{"version": 99}')


def test_state_that_is_loaded_can_grow_and_be_replaced() -> None:
    before = new()
    decode(before, b.ipfix([template(n) for n in range(256, 300)]))
    after = new()
    after.load(before.dump())
    wide: list[b.Field] = [(0, 1, 8)]
    decode(after, b.ipfix([b.template_set(256, wide, True), template(400)]))
    assert len(after.templates()) == 45
    eight = b.set_of(256, struct.pack(">Q", 1 << 40))
    decoded = decode(after, b.ipfix([eight, data(3, number=257)]))
    assert sorted(octets(decoded)) == [3, 1 << 40]


def test_a_v9_datagram_is_one_unit_of_its_sequence() -> None:
    message = b.v9([b.template_set(256, FIELDS, False), data(1, 2, 3)], sequence=17)
    decoded = decode(new(), message)
    assert (decoded.sequence.tolist(), decoded.sequence_units.tolist()) == ([17], [1])


def test_an_ipfix_sequence_counts_data_records_options_too() -> None:
    decoder = new()
    options = b.options_set(300, [(0, 149, 4)], [(0, 34, 4)], ipfix=True)
    body = b.set_of(300, struct.pack(">II", 1, 100))
    whole = b.ipfix([template(), options, body, data(1, 2, 3)], sequence=50)
    unknown = b.ipfix([data(1), data(2, number=999)], sequence=54)
    broken = b.ipfix([data(1), b"\x01\x00\x00\x02"], sequence=55)
    none = b.ipfix([template()], sequence=56)
    decoded = decode(decoder, whole, unknown, broken, none)
    assert decoded.sequence.tolist() == [50, 54, 55, 56]
    assert decoded.sequence_units.tolist() == [4, -1, -1, 0]


def test_datagrams_may_lie_anywhere_in_the_buffer() -> None:
    first = b.ipfix([template(), data(1)])
    second = b.ipfix([data(2)])
    buffer = np.frombuffer(second + b"\xee" * 7 + first, np.uint8)
    batch = DatagramBatch(
        buffer,
        np.asarray([len(second) + 7, 0]),
        np.asarray([len(first), len(second)]),
        np.zeros(2, np.int64),
        np.frombuffer(address(1) * 2, np.uint8).reshape(2, 16),
        np.zeros(2, np.uint16),
    )
    assert octets(new().decode(batch, 0)) == [1, 2]


def test_layouts_with_the_same_columns_come_in_one_batch_in_each_their_values() -> None:
    turned: list[b.Field] = [(0, 1, 4), (0, 2, 4)]
    straight: list[b.Field] = [(0, 2, 4), (0, 1, 4)]
    other: list[b.Field] = [(0, 4, 1)]
    message = b.ipfix(
        [
            b.template_set(256, turned, True),
            b.template_set(257, straight, True),
            b.template_set(258, other, True),
            b.set_of(256, struct.pack(">II", 10, 1)),
            b.set_of(257, struct.pack(">II", 2, 20)),
            b.set_of(258, b"\6"),
        ]
    )
    decoded = decode(new(), message)
    assert sorted(batch.num_rows for batch in decoded.flows) == [1, 2]
    rows = {r["template_id"]: r for r in flow_rows(decoded)}
    assert (rows[256]["bytes"], rows[256]["packets"]) == (10, 1)
    assert (rows[257]["bytes"], rows[257]["packets"]) == (20, 2)
    assert rows[258]["protocol"] == 6


def test_what_breaks_the_decoder_can_be_accounted_for_without_decoding() -> None:
    decoder = new()
    batch = DatagramBatch.from_payloads([b.v5([b.v5_record()])], address(1))
    decoded = decoder.undecodable(batch)
    assert decoded.status.tolist() == [Status.MALFORMED_HEADER]
    assert decoded.source.tolist() != [-1]
    assert decoded.flows == []


def test_what_was_held_and_proves_malformed_is_released_as_that() -> None:
    decoder = new()
    short = b.set_of(256, b"\0\0\0\1" + bytes(9))
    waiting = decode(decoder, b.ipfix([short]))
    long = [(0, 1, 4), (0, 82, b.VARIABLE)]
    released = decode(decoder, b.ipfix([b.template_set(256, long, True)]))
    status = Status.MALFORMED_DATA
    overrun = b.set_of(257, b"\0\0\0\1" + b"\xc8" + bytes(9))
    decode(decoder, b.ipfix([overrun]))
    second = decode(decoder, b.ipfix([b.template_set(257, long, True)]))
    assert list(released.released) == [(int(waiting.source[0]), Status.DECODED)]
    assert second.released == {(int(waiting.source[0]), status): 1}
