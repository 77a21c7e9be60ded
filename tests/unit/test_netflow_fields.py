"""What data records become: encodings, semantics, and lengths that lie."""

from __future__ import annotations

import ipaddress
import json
import struct
from typing import Any

import pytest

from appliance.batch import DatagramBatch
from appliance.decode import Decoded, Status
from tests import builders as b
from tests.decoding import decoder, flow_rows

SECONDS = 1_700_000_000
EXPORT_NS = SECONDS * 10**9
UPTIME = 600_000
IPV4_A, IPV4_B = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 2])
IPV6_A, IPV6_B = (ipaddress.IPv6Address(f"2001:db8::{n}").packed for n in (1, 2))

Value = tuple[b.Field, bytes]


def decode(*payloads: bytes) -> Decoded:
    return decoder().decode(DatagramBatch.from_payloads(list(payloads)), 0)


def rows_of(fields: list[b.Field], *records: list[bytes], ipfix: bool = True) -> Decoded:
    body = b"".join(b.record(fields, r) for r in records)
    sets = [b.template_set(256, fields, ipfix), b.set_of(256, body)]
    return decode(b.ipfix(sets) if ipfix else b.v9(sets, uptime=UPTIME))


def row(*values: Value, ipfix: bool = True) -> dict[str, Any]:
    """The one flow record of one record with these fields."""
    decoded = rows_of([f for f, _ in values], [v for _, v in values], ipfix=ipfix)
    assert decoded.status.tolist() == [Status.DECODED]
    (found,) = flow_rows(decoded)
    return found


def text(value: Any) -> str:
    address = ipaddress.IPv6Address(value.bytes)
    return str(address.ipv4_mapped or address)


def ie(number: int, octets: bytes, pen: int = 0) -> Value:
    return (pen, number, len(octets)), octets


def var(number: int, octets: bytes, pen: int = 0) -> Value:
    return (pen, number, b.VARIABLE), octets


@pytest.mark.parametrize("length", range(1, 9))
def test_integers_of_any_length_are_right(length: int) -> None:
    value = int.from_bytes(bytes(range(0x81, 0x81 + length)), "big")
    assert row(ie(1, value.to_bytes(length, "big")))["bytes"] == value


def test_signed_integers_are_sign_extended() -> None:
    # mibObjectValueInteger
    assert row(ie(434, b"\xff\xfe"))["mib_object_value_integer"] == -2


def test_a_number_too_large_for_its_column_is_kept_as_octets() -> None:
    fields: list[b.Field] = [(0, 7, 4)]
    decoded = rows_of(fields, [struct.pack(">I", 80)], [struct.pack(">I", 70_000)])
    first, second = flow_rows(decoded)
    assert first["src_port"] == 80
    assert "extra" not in first or first["extra"] == []
    assert "src_port" not in second
    assert second["extra"] == [("0.7", "00011170")]


def test_an_address_of_fifty_octets_is_kept_as_octets() -> None:
    found = row(ie(8, bytes(50)), ie(1, b"\5"))
    assert found["bytes"] == 5
    assert found["extra"] == [("0.8", "00" * 50)]


def test_an_integer_of_nine_octets_is_kept_as_octets() -> None:
    assert row(ie(1, b"\1" * 9))["extra"] == [("0.1", "01" * 9)]


def test_unknown_elements_are_kept_under_their_numbers() -> None:
    found = row(ie(7, b"\x12\x34", pen=61_000), ie(1, b"\5"), var(8, b"\xab", pen=61_000))
    assert found["extra"] == [("61000.7", "1234"), ("61000.8", "ab")]


def test_an_id_with_the_high_bit_is_no_enterprise_bit_in_v9() -> None:
    assert row(ie(0xEA61, b"\1\2"), ipfix=False)["extra"] == [("0.60001", "0102")]


def test_reduced_floats_and_booleans() -> None:
    # samplingProbability is a float64, dataRecordsReliability a boolean
    fields: list[b.Field] = [(0, 311, 4), (0, 276, 1)]
    half = struct.pack(">f", 0.5)
    found = flow_rows(rows_of(fields, [half, b"\1"], [half, b"\2"], [half, b"\7"]))
    assert [r["sampling_probability"] for r in found] == [0.5] * 3
    assert [r.get("data_records_reliability") for r in found] == [True, False, None]


def test_mac_addresses_are_numbers_of_48_bits() -> None:
    assert row(ie(56, bytes([1, 2, 3, 4, 5, 6])))["src_mac"] == 0x010203040506


def test_strings_end_at_their_padding_and_survive_wrong_utf8() -> None:
    fields: list[b.Field] = [(0, 82, 8)]
    found = flow_rows(
        rows_of(
            fields, [b"eth0\0\0\0\0"], [b"12345678"], [bytes(8)], ["é".encode().ljust(8, b"\0")]
        )
    )
    assert [r["interface_name"] for r in found] == ["eth0", "12345678", "", "é"]
    assert row(ie(82, b"a\xffb\0"))["interface_name"] == "a\ufffdb"


def test_variable_lengths_in_both_forms_and_fields_after_them() -> None:
    fields: list[b.Field] = [(0, 1, 4), (0, 82, b.VARIABLE), (0, 83, b.VARIABLE), (0, 2, 2)]
    names = [b"", b"x", b"y" * 254, b"z" * 255, b"w" * 1000]
    records = [[struct.pack(">I", i), n, n[:3], b"\0\7"] for i, n in enumerate(names)]
    found = flow_rows(rows_of(fields, *records))
    assert [r["interface_name"] for r in found] == [n.decode() for n in names]
    assert [r["interface_description"] for r in found] == [n[:3].decode() for n in names]
    assert [r["bytes"] for r in found] == [0, 1, 2, 3, 4]
    assert [r["packets"] for r in found] == [7] * 5


def test_variable_lengths_of_many_datagrams_with_differing_numbers_of_records() -> None:
    fields: list[b.Field] = [(0, 1, 4), (0, 82, b.VARIABLE)]
    payloads = [b.ipfix([b.template_set(256, fields, True)])]
    expected = []
    for i in range(60):
        values = [(i * 100 + k, f"n{i}-{k}" * (k % 90)) for k in range(i % 7)]
        expected += values
        body = b"".join(b.record(fields, [struct.pack(">I", v), n.encode()]) for v, n in values)
        payloads.append(b.ipfix([b.set_of(256, body)]))
    found = flow_rows(decode(*payloads))
    assert [(r["bytes"], r["interface_name"]) for r in found] == expected


def test_a_variable_length_that_leaves_its_set_keeps_the_records_before() -> None:
    fields: list[b.Field] = [(0, 1, 4), (0, 82, b.VARIABLE)]
    good = b.record(fields, [bytes(4), b"ok"])
    sets = [b.template_set(256, fields, True), b.set_of(256, good + bytes(4) + b"\xc8short")]
    many = [b.ipfix(sets[1:])] * 40
    decoded = decode(b.ipfix(sets), *many)
    assert [r["interface_name"] for r in flow_rows(decoded)] == ["ok"] * 41
    assert set(decoded.status.tolist()) == {Status.MALFORMED_DATA}


@pytest.mark.parametrize("copies", [1, 40])
def test_padding_is_no_empty_record(copies: int) -> None:
    fields: list[b.Field] = [(0, 82, b.VARIABLE)]
    template = b.ipfix([b.template_set(256, fields, True)])
    data = b.ipfix([b.set_of(256, b"\2ab", pad=3)])
    decoded = decode(template, *[data] * copies)
    assert len(flow_rows(decoded)) == copies
    assert set(decoded.status.tolist()) == {Status.DECODED}


def test_a_variable_length_field_in_v9_is_read_as_in_ipfix() -> None:
    assert row(var(82, b"GE0/0"), ie(1, b"\5"), ipfix=False)["interface_name"] == "GE0/0"


def test_records_cut_off_by_the_end_of_the_datagram_are_left_out() -> None:
    fields: list[b.Field] = [(0, 1, 4)]
    whole = b.v9([b.template_set(256, fields, False), b.set_of(256, bytes(12))])
    decoded = decode(whole[:-2])
    assert decoded.records.tolist() == [2]
    assert decoded.status.tolist() == [Status.MALFORMED_LENGTH]


def test_zeros_after_the_last_set_are_padding() -> None:
    fields: list[b.Field] = [(0, 1, 4)]
    whole = b.v9([b.template_set(256, fields, False), b.set_of(256, bytes(8))])
    decoded = decode(whole + bytes(1300), whole + b"\0\0\0\0\0\1", whole + bytes(2))
    assert decoded.records.tolist() == [2, 2, 2]
    assert decoded.status.tolist() == [Status.DECODED, Status.MALFORMED_LENGTH, Status.DECODED]


def test_a_set_may_leave_its_message_by_a_wrong_message_length() -> None:
    fields: list[b.Field] = [(0, 1, 4)]
    sets = [b.template_set(256, fields, True), b.set_of(256, bytes(8))]
    length = len(b.ipfix(sets)) - 2
    decoded = decode(b.ipfix(sets, length=length))
    assert decoded.records.tolist() == [2]
    assert decoded.status.tolist() == [Status.MALFORMED_LENGTH]


def test_records_of_many_sets_of_differing_lengths_stay_in_order() -> None:
    fields: list[b.Field] = [(0, 1, 4)]
    payloads = [b.v9([b.template_set(256, fields, False)])]
    expected = []
    for i in range(90):
        values = list(range(1000 * i, 1000 * i + 1 + i % 80))
        expected += values
        payloads.append(b.v9([b.set_of(256, struct.pack(f">{len(values)}I", *values))]))
    assert [r["bytes"] for r in flow_rows(decode(*payloads))] == expected


@pytest.mark.parametrize(
    ("numbers", "column", "element"),
    [
        ((1, 85, 231, 23), "bytes", None),
        ((85, 231, 23), "bytes", 85),
        ((231, 23), "bytes", 231),
        ((23,), "bytes", 23),
        ((2, 86), "packets", None),
        ((298, 24), "packets", 298),
    ],
)
def test_counters_take_the_best_element(
    numbers: tuple[int, ...], column: str, element: int | None
) -> None:
    found = row(*[ie(n, bytes([n % 250])) for n in reversed(numbers)])
    assert found[column] == numbers[0] % 250
    assert found.get(f"{column}_element") == element


def test_the_responders_side_is_the_reverse_direction() -> None:
    found = row(ie(231, b"\1"), ie(232, b"\2"), ie(298, b"\3"), ie(299, b"\4"))
    assert (found["bytes"], found["rev_bytes"]) == (1, 2)
    assert (found["packets"], found["rev_packets"]) == (3, 4)


def test_a_biflow_is_one_row_with_reverse_columns() -> None:
    found = row(ie(1, b"\1"), ie(1, b"\2", pen=29305), ie(6, b"\x12"), ie(6, b"\x10", pen=29305))
    assert (found["bytes"], found["rev_bytes"]) == (1, 2)
    assert (found["tcp_flags"], found["rev_tcp_flags"]) == (0x12, 0x10)


def test_a_repeated_element_gets_a_numbered_column() -> None:
    found = row(ie(27, IPV6_A), ie(27, IPV6_B), ie(7, b"\0\1"), ie(7, b"\0\2"), ie(7, b"\0\3"))
    assert (text(found["src_addr"]), text(found["src_addr_2"])) == ("2001:db8::1", "2001:db8::2")
    assert [found[c] for c in ("src_port", "src_port_2", "src_port_3")] == [1, 2, 3]


def test_an_element_repeated_without_end_makes_no_columns_without_end() -> None:
    found = row(*[ie(4, bytes([n])) for n in range(40)])
    assert found["protocol_16"] == 15
    assert "protocol_17" not in found
    assert [value for _, value in found["extra"]] == [f"{n:02x}" for n in range(16, 40)]
    assert len({key for key, _ in found["extra"]}) == 24


@pytest.mark.parametrize(
    ("version", "v4", "v6", "main", "other"),
    [
        (4, IPV4_A, IPV6_A, "192.0.2.1", "2001:db8::1"),
        (6, IPV4_A, IPV6_A, "2001:db8::1", "192.0.2.1"),
        (None, IPV4_A, bytes(16), "192.0.2.1", "::"),
        (None, bytes(4), IPV6_A, "2001:db8::1", "0.0.0.0"),
        (0, bytes(4), IPV6_A, "2001:db8::1", "0.0.0.0"),
    ],
)
def test_with_both_families_the_ip_version_decides_and_else_what_is_not_zero(
    version: int | None, v4: bytes, v6: bytes, main: str, other: str
) -> None:
    values = [ie(8, v4), ie(27, v6), ie(12, v4), ie(28, v6), ie(9, b"\x18"), ie(29, b"\x40")]
    if version is not None:
        values.append(ie(60, bytes([version])))
    found = row(*values)
    assert (text(found["src_addr"]), text(found["src_addr_other"])) == (main, other)
    assert (text(found["dst_addr"]), text(found["dst_addr_other"])) == (main, other)
    assert found["src_mask"] == (64 if ":" in main else 24)


def test_a_prefix_stands_for_an_address_that_is_not_there() -> None:
    found = row(ie(44, IPV4_A), ie(45, IPV4_B))
    assert (text(found["src_addr"]), text(found["dst_addr"])) == ("192.0.2.1", "198.51.100.2")
    both = row(ie(8, IPV4_A), ie(44, IPV4_B))
    assert text(both["src_addr"]) == "192.0.2.1"
    assert text(both["source_ipv4_prefix"]) == "198.51.100.2"


def test_label_stack_entries_become_a_list_of_labels() -> None:
    entries = [(label << 4 | 1).to_bytes(3, "big") for label in (16_065, 24_305)]
    assert row(ie(70, entries[0]), ie(71, entries[1]))["mpls_labels"] == [16_065, 24_305]


def test_switched_times_count_back_from_the_export_time() -> None:
    found = row(
        ie(22, struct.pack(">I", UPTIME - 5000)), ie(21, struct.pack(">I", UPTIME)), ipfix=False
    )
    assert found["start_ns"] == EXPORT_NS - 5 * 10**9
    assert found["end_ns"] == EXPORT_NS
    assert found["start_uptime_ms"] == UPTIME - 5000
    assert "uptime_lt_switched" not in found


def test_switched_times_before_a_wrap_of_the_uptime_are_seconds_ago() -> None:
    before = 2**32 - 1000
    found = row(ie(22, struct.pack(">I", before)), ie(21, struct.pack(">I", UPTIME)), ipfix=False)
    assert found["start_ns"] == EXPORT_NS - (UPTIME + 1000) * 10**6
    assert found["uptime_lt_switched"] is True


def test_absolute_times_are_preferred_milliseconds_first() -> None:
    found = row(
        ie(150, struct.pack(">I", SECONDS)),
        ie(152, struct.pack(">Q", SECONDS * 1000 + 5)),
        ie(22, bytes(4)),
    )
    assert found["start_ns"] == EXPORT_NS + 5_000_000
    assert found["flow_start_seconds"] == EXPORT_NS
    assert found["start_uptime_ms"] == 0


def test_ntp_times_and_deltas() -> None:
    stamp = struct.pack(">II", SECONDS + 2_208_988_800, 1 << 31)
    assert row(ie(156, stamp))["start_ns"] == EXPORT_NS + 500_000_000
    assert row(ie(158, struct.pack(">I", 1500)))["start_ns"] == EXPORT_NS - 1_500_000


@pytest.mark.parametrize("stamp", [bytes(8), b"\xff" * 8])
@pytest.mark.parametrize("element", [154, 155, 156, 157])
def test_impossible_ntp_times_are_null(element: int, stamp: bytes) -> None:
    found = row(ie(element, stamp), ie(1, b"\5"))
    assert not {"start_ns", "end_ns"} & found.keys()


def test_a_time_beyond_64_bits_of_nanoseconds_is_null() -> None:
    assert "start_ns" not in row(ie(152, b"\xff" * 8), ie(1, b"\5"))


def test_uptime_counts_from_the_start_of_the_system_where_a_record_says_it() -> None:
    began = struct.pack(">Q", SECONDS * 1000)
    found = row(ie(160, began), ie(22, struct.pack(">I", 250)))
    assert found["start_ns"] == EXPORT_NS + 250_000_000
    assert "start_ns" not in row(ie(22, struct.pack(">I", 250)))


def test_firewall_and_nat_events() -> None:
    found = row(
        ie(233, b"\2"),
        ie(230, b"\4"),
        ie(323, struct.pack(">Q", SECONDS * 1000)),
        ie(225, IPV4_A),
        ie(228, b"\x01\xbb"),
    )
    assert (found["firewall_event"], found["nat_event"], found["event_ns"]) == (2, 4, EXPORT_NS)
    assert text(found["post_nat_src_addr"]) == "192.0.2.1"
    assert found["post_nat_dst_port"] == 443


def test_the_first_events_of_the_asa_have_numbers_of_their_own() -> None:
    found = row(ie(40001, IPV4_A), ie(40005, b"\1"), ipfix=False)
    assert text(found["post_nat_src_addr"]) == "192.0.2.1"
    assert found["firewall_event"] == 1


def test_a_frame_section_gives_what_the_record_does_not_say() -> None:
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 8, 60, 0, 0, 63, 17, 0, IPV4_A, IPV4_B)
    frame = bytes(12) + b"\x08\x00" + ip + struct.pack(">HHHH", 5353, 53, 8, 0)
    found = row(var(315, frame), ie(10, b"\7"), ie(312, b"\x00\x72"))
    assert (text(found["src_addr"]), found["dst_port"]) == ("192.0.2.1", 53)
    assert (found["from_frame"], found["in_if"], found["frame_length"]) == (True, 7, 114)
    section = row(ie(313, frame[14:]))
    assert (text(section["dst_addr"]), section["protocol"]) == ("198.51.100.2", 17)


def extra_list(number: int, content: bytes, *templates: bytes) -> Any:
    fields: list[b.Field] = [(0, number, b.VARIABLE)]
    sets = [*templates, b.template_set(256, fields, True)]
    decoded = decode(b.ipfix([*sets, b.set_of(256, b.record(fields, [content]))]))
    ((key, value),) = flow_rows(decoded)[0]["extra"]
    assert key == f"0.{number}"
    return json.loads(value)


def test_a_basic_list_is_json_by_names() -> None:
    content = struct.pack(">BHH", 3, 10, 4) + struct.pack(">II", 1, 2)
    found = extra_list(291, content)
    assert found == {"semantic": "allOf", "element": "ingressInterface", "values": [1, 2]}


def test_a_sub_template_list_is_read_with_its_template() -> None:
    template = b.template_set(300, [(0, 7, 2), (0, 82, b.VARIABLE)], True)
    content = struct.pack(">BH", 4, 300) + b"\0\x50\2ab" + b"\0\x35\1c"
    found = extra_list(292, content, template)
    assert found["records"] == [
        {"sourceTransportPort": 80, "interfaceName": "ab"},
        {"sourceTransportPort": 53, "interfaceName": "c"},
    ]


def test_a_multi_list_keeps_the_octets_of_an_unknown_template() -> None:
    template = b.template_set(300, [(0, 4, 1)], True)
    content = b"\3" + struct.pack(">HHB", 300, 5, 17) + struct.pack(">HHH", 999, 6, 0xABCD)
    assert extra_list(293, content, template)["lists"] == [
        {"template": 300, "records": [{"protocolIdentifier": 17}]},
        {"template": 999, "octets": "abcd"},
    ]


def test_lists_in_lists_end_at_a_depth() -> None:
    content = struct.pack(">BHH", 3, 10, 1) + b"\1"
    for _ in range(30):
        content = struct.pack(">BHH", 3, 291, len(content)) + content
    found = extra_list(291, content)
    for _ in range(8):
        (found,) = found["values"]
    assert isinstance(found, str)


def test_more_records_than_a_datagram_may_have_are_left_out() -> None:
    decoded = rows_of([(0, 4, 1)], *[[b"\6"]] * 5000)
    assert decoded.records.tolist() == [4096]
    assert decoded.status.tolist() == [Status.OVER_LIMIT]


def test_more_sets_than_a_datagram_may_have_are_left_out() -> None:
    fields: list[b.Field] = [(0, 1, 4)]
    sets = [b.template_set(256, fields, False)] + [b.set_of(256, bytes(4))] * 2000
    decoded = decode(b.v9(sets))
    assert decoded.records.tolist() == [1023]
    assert decoded.status.tolist() == [Status.OVER_LIMIT]
