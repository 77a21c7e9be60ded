"""Template state: definition, refresh, redefinition, withdrawal, scopes and limits."""

from __future__ import annotations

import struct

import pytest

from appliance.batch import IPV4_MAPPED_PREFIX, DatagramBatch
from appliance.decode import Decoded, Decoder, Limits, Status
from tests import builders as b
from tests.decoding import registry

BYTES4 = [(0, 1, 4)]
BYTES8 = [(0, 1, 8)]
PACKETS_BYTES = [(0, 2, 4), (0, 1, 4)]


def address(number: int) -> bytes:
    return IPV4_MAPPED_PREFIX + struct.pack(">I", 0xC0000200 + number)


def decode(
    decoder: Decoder,
    *payloads: bytes,
    exporter: int | list[int] = 1,
    now_ns: int = 0,
    session: int | list[int] = 0,
    port: int | list[int] = 9995,
) -> Decoded:
    numbers = [exporter] * len(payloads) if isinstance(exporter, int) else exporter
    addresses = [address(n) for n in numbers]
    batch = DatagramBatch.from_payloads(list(payloads), addresses, now_ns, port, session)
    return decoder.decode(batch, now_ns)


def values(decoded: Decoded, name: str = "bytes") -> list[object]:
    return [v for batch in decoded.flows for v in batch.column(name).to_pylist()]


def new(**limits: int) -> Decoder:
    return Decoder(registry(), Limits(**limits))


def v9_template(fields: list[b.Field], number: int = 256) -> bytes:
    return b.template_set(number, fields, ipfix=False)


def ipfix_template(fields: list[b.Field], number: int = 256) -> bytes:
    return b.template_set(number, fields, ipfix=True)


def data4(value: int, number: int = 256) -> bytes:
    return b.set_of(number, struct.pack(">I", value))


def data8(value: int, number: int = 256) -> bytes:
    return b.set_of(number, struct.pack(">Q", value))


def test_a_template_serves_the_data_of_later_batches() -> None:
    decoder = new()
    decode(decoder, b.v9([v9_template(BYTES4)]))
    assert values(decode(decoder, b.v9([data4(7)]), b.v9([data4(8)]))) == [7, 8]


def test_data_before_its_template_in_one_batch_is_decoded_with_it() -> None:
    decoded = decode(new(), b.v9([data4(7)]), b.v9([v9_template(BYTES4), data4(8)]))
    assert values(decoded) == [7, 8]
    assert decoded.status.tolist() == [Status.DECODED, Status.DECODED]


def test_a_template_redefined_midway_splits_the_batch_in_order_of_arrival() -> None:
    decoder = new()
    decoded = decode(
        decoder,
        b.v9([v9_template(BYTES4), data4(1)]),
        b.v9([data4(2)]),
        b.v9([data4(3), v9_template(BYTES8), data8(1 << 40)]),
        b.v9([data8(2 << 40)]),
        b.v9([v9_template(BYTES4), data4(4)]),
    )
    assert sorted(values(decoded)) == [1, 2, 3, 4, 1 << 40, 2 << 40]


def test_the_last_of_two_definitions_in_one_set_counts() -> None:
    both = b.set_of(0, b.template(256, BYTES8, False) + b.template(256, BYTES4, False))
    assert values(decode(new(), b.v9([both, data4(9)]))) == [9]


def test_a_refresh_of_the_same_template_changes_nothing() -> None:
    decoder = new()
    decode(decoder, b.v9([v9_template(BYTES4)]), now_ns=10)
    revision, state = decoder.revision, len(decoder.dump())
    decode(decoder, *[b.v9([v9_template(BYTES4)])] * 50, now_ns=20)
    assert decoder.revision == revision
    assert len(decoder.dump()) == state
    (row,) = decoder.templates()
    assert (row["defined_ns"], row["refreshed_ns"]) == (10, 20)


def test_the_same_id_means_another_thing_in_another_domain_and_from_another_exporter() -> None:
    decoder = new()
    decode(decoder, b.v9([v9_template(BYTES4)], domain=1), b.v9([v9_template(BYTES8)], domain=2))
    decode(decoder, b.v9([v9_template(PACKETS_BYTES)], domain=1), exporter=2)
    assert values(decode(decoder, b.v9([data4(5)], domain=1))) == [5]
    assert values(decode(decoder, b.v9([data8(1 << 33)], domain=2))) == [1 << 33]
    pair = b.v9([b.set_of(256, struct.pack(">II", 1, 6))], domain=1)
    assert values(decode(decoder, pair, exporter=2)) == [6]


def test_an_exporter_may_change_its_port() -> None:
    decoder = new()
    decode(decoder, b.v9([v9_template(BYTES4)]), port=1000)
    assert values(decode(decoder, b.v9([data4(7)]), port=2000)) == [7]


def test_templates_of_v9_and_ipfix_are_apart() -> None:
    decoder = new()
    decode(decoder, b.v9([v9_template(BYTES4)]))
    assert decode(decoder, b.ipfix([data4(7)])).status.tolist() == [Status.HELD]


def test_a_withdrawn_template_is_not_used_again() -> None:
    decoder = new()
    withdrawal = b.set_of(2, struct.pack(">HH", 256, 0))
    decoded = decode(decoder, b.ipfix([ipfix_template(BYTES4), data4(1), withdrawal, data4(2)]))
    assert values(decoded) == [1]
    assert decoded.status.tolist() == [Status.HELD]
    assert decoder.templates() == []


@pytest.mark.parametrize(("set_id", "left"), [(2, [300]), (3, [256, 257])])
def test_all_templates_of_a_kind_are_withdrawn_at_once(set_id: int, left: list[int]) -> None:
    decoder = new()
    options = b.options_set(300, [(0, 149, 4)], [(0, 34, 4)], ipfix=True)
    both = [ipfix_template(BYTES4), ipfix_template(BYTES8, 257), options]
    decode(decoder, b.ipfix(both))
    decode(decoder, b.ipfix([b.set_of(set_id, struct.pack(">HH", set_id, 0))]))
    assert sorted(row["id"] for row in decoder.templates()) == left


def test_a_template_without_length_is_refused_and_ends_the_one_before() -> None:
    decoder = new()
    decode(decoder, b.v9([v9_template(BYTES4)]))
    decoded = decode(decoder, b.v9([v9_template([(0, 1, 0), (0, 2, 0)]), data4(7)]))
    assert decoded.status.tolist() == [Status.MALFORMED_TEMPLATE]
    assert values(decoded) == []
    assert decoder.templates() == []


def test_fields_without_length_are_legal() -> None:
    fields = [(0, 8, 0), (0, 1, 4), (0, 12, 0)]
    assert values(decode(new(), b.v9([v9_template(fields), data4(7)]))) == [7]


def test_a_record_longer_than_a_datagram_is_refused() -> None:
    decoded = decode(new(), b.v9([v9_template([(0, 1, 65534), (0, 2, 65534)])]))
    assert decoded.status.tolist() == [Status.MALFORMED_TEMPLATE]


def test_a_bad_template_does_not_spoil_the_good_ones_around_it() -> None:
    templates = (
        b.template(256, BYTES4, False)
        + b.template(257, [(0, 1, 0)], False)
        + b.template(258, BYTES4, False)
    )
    decoder = new()
    decode(decoder, b.v9([b.set_of(0, templates)]))
    assert sorted(row["id"] for row in decoder.templates()) == [256, 258]


@pytest.mark.parametrize("scopes", [0, 3])
def test_an_options_template_with_an_impossible_scope_count_is_refused(scopes: int) -> None:
    body = struct.pack(">HHHHHHH", 256, 2, scopes, 149, 4, 34, 4)
    decoded = decode(new(), b.ipfix([b.set_of(3, body)]))
    assert decoded.status.tolist() == [Status.MALFORMED_TEMPLATE]


def test_padding_between_options_templates_is_read_over() -> None:
    one = struct.pack(">HHHHHHH", 256, 4, 4, 1, 4, 34, 4)
    two = struct.pack(">HHHHHHH", 257, 4, 4, 1, 4, 35, 1)
    decoder = new()
    decode(decoder, b.v9([b.set_of(1, one + bytes(2) + two + bytes(2))]))
    assert sorted(row["id"] for row in decoder.templates()) == [256, 257]


def test_the_templates_of_a_tcp_session_end_with_it_and_serve_no_other() -> None:
    decoder = new()
    decode(decoder, b.ipfix([ipfix_template(BYTES4)]), session=4)
    assert decode(decoder, b.ipfix([data4(1)]), session=5).status.tolist() == [Status.HELD]
    assert decode(decoder, b.ipfix([data4(1)])).status.tolist() == [Status.HELD]
    assert values(decode(decoder, b.ipfix([data4(2)]), session=4)) == [2]
    decoder.end_session(4)
    assert decode(decoder, b.ipfix([data4(3)]), session=4).status.tolist() == [Status.HELD]
    assert decoder.templates() == []


def test_beyond_an_exporters_limit_the_template_unused_for_longest_goes() -> None:
    decoder = new(templates_per_exporter=3)
    for number in (256, 257, 258):
        decode(decoder, b.v9([v9_template(BYTES4, number)]), now_ns=number)
    decode(decoder, b.v9([data4(1, 256)]), now_ns=1000)
    decode(decoder, b.v9([v9_template(BYTES4, 259)]), now_ns=1001)
    assert sorted(row["id"] for row in decoder.templates()) == [256, 258, 259]
    assert decoder.templates_evicted() == {1: 1}


def test_many_exporters_with_the_same_field_list_share_one_layout() -> None:
    decoder = new()
    exporters = list(range(1, 201))
    template = b.v9([v9_template(PACKETS_BYTES)])
    decode(decoder, *[template] * 200, exporter=exporters)
    assert len(decoder.templates()) == 200
    pair = b.v9([b.set_of(256, struct.pack(">II", 1, 6))])
    decoded = decode(decoder, *[pair] * 200, exporter=exporters)
    assert [batch.num_rows for batch in decoded.flows] == [200]
    assert len({str(v) for v in values(decoded, "exporter")}) == 200


def test_layouts_that_no_template_has_any_more_are_forgotten() -> None:
    decoder = new()
    for length in range(1, 200):
        decode(decoder, b.v9([v9_template([(0, 95, length)])]))
    assert decoder.layouts == 1


def test_a_template_says_how_often_it_was_used() -> None:
    decoder = new()
    decode(decoder, b.v9([v9_template(PACKETS_BYTES)], domain=3), now_ns=5)
    decode(decoder, b.v9([b.set_of(256, bytes(16)), b.set_of(256, bytes(8))], domain=3), now_ns=9)
    (row,) = decoder.templates()
    assert row["exporter"] == "192.0.2.1"
    assert (row["protocol"], row["domain"], row["id"]) == (9, 3, 256)
    assert row["fields"] == [[0, 2, 4], [0, 1, 4]]
    assert (row["uses"], row["used_ns"], row["options"]) == (2, 9, False)
