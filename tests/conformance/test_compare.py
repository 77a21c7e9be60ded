"""The suite itself: a difference that is there is found, and what is allowed is not reported."""

from __future__ import annotations

import gzip
import json

import pytest

from tests import builders
from tests.capture_builders import ethernet, ip, pcap, udp
from tests.conformance.__main__ import main, table
from tests.conformance.compare import compare
from tests.conformance.corpus import cases
from tests.conformance.options import counter_differences, same
from tests.conformance.run import Listed, run

GOLDEN = {"packet": 1, "src_addr": "192.0.2.1", "bytes": 10, "start_ms": 5}


def deviations(golden, decoded, **options):
    result = compare({1: golden}, {1: decoded}, **options)
    return [(d.field, d.expected, d.got) for d in result.deviations]


def test_a_wrong_field_is_found_and_the_others_count_as_equal():
    result = compare({1: [GOLDEN]}, {1: [{**GOLDEN, "bytes": 11, "more": 1}]})
    assert [(d.field, d.expected, d.got) for d in result.deviations] == [("bytes", 10, 11)]
    assert (result.compared, result.equal) == (4, 3)


def test_a_missing_field_and_another_type_are_differences():
    other = {"packet": 1, "src_addr": "192.0.2.1", "bytes": "10", "start_ms": 5}
    assert deviations([GOLDEN], [other]) == [("bytes", 10, "10")]
    del other["bytes"]
    assert deviations([GOLDEN], [other]) == [("bytes", 10, None)]


def test_missing_and_extra_records_are_found():
    other = {**GOLDEN, "src_addr": "192.0.2.2", "bytes": 9, "start_ms": 6}
    assert deviations([GOLDEN], []) == [("record", GOLDEN, None)]
    assert deviations([], [GOLDEN]) == [("record", None, GOLDEN)]
    assert deviations([GOLDEN], [other]) == [("record", GOLDEN, None), ("record", None, other)]
    assert deviations([], [GOLDEN], allowed=lambda r: r["bytes"] == 10) == []


def test_records_of_one_packet_may_come_in_another_order_but_as_often():
    one, two = GOLDEN, {**GOLDEN, "bytes": 20}
    assert deviations([one, two], [two, one]) == []
    assert len(deviations([one, two], [two, two])) == 1


def test_times_of_a_broken_clock_are_not_compared_and_a_repeated_element_may_be_either():
    golden = {**GOLDEN, "uptime_lt_switched": True, "src_addr_2": "192.0.2.7"}
    decoded = {**golden, "start_ms": 99, "src_addr": "192.0.2.7"}
    assert deviations([golden], [decoded]) == []
    assert deviations([golden], [{**decoded, "src_addr": "192.0.2.8"}]) != []


def test_an_ipv4_mapped_address_is_the_ipv4_address_and_no_other():
    golden = {**GOLDEN, "src_addr": "::ffff:c000:201"}
    assert deviations([golden], [GOLDEN]) == []
    assert deviations([golden], [{**GOLDEN, "src_addr": "192.0.2.3"}]) != []


@pytest.mark.parametrize(
    ("text", "value", "equal"),
    [
        ("1", 1, True),
        ("1", 2, False),
        ("00:00:00:64", 100, True),
        ("0a:21:43:bd", "0a2143bd", True),
        ("Te0/0/0", "Te0/0/0", True),
        ("Te0/0/0", "Te0/0/1", False),
        ("Jul 18, 2024 02:15:01.733000000 UTC", 1721268901733, True),
        ("Jul 18, 2024 02:15:01.733000000 UTC", 1721268901734, False),
    ],
)
def test_texts_of_options_are_understood(text, value, equal):
    assert same(text, value) is equal


def test_counter_formats_count_up_to_the_first_that_tshark_does_not_know():
    golden = {"record_formats": [1, 1005, 4]}
    assert counter_differences(golden, {"record_formats": [1, 1005, 1]})[1] == []
    assert counter_differences(golden, {"record_formats": [2, 1005, 1]})[1] != []
    assert counter_differences({"record_formats": [1, 2]}, {"record_formats": [1]})[1] != []


FIELDS = [(0, 8, 4), (0, 1, 4)]
RECORD = bytes([192, 0, 2, 1]) + (700).to_bytes(4, "big")


@pytest.fixture
def corpus(tmp_path):
    """A corpus of one v9 capture: data, template, data; its golden record is the last one's."""
    payloads = [
        builders.v9([builders.set_of(256, RECORD)], domain=4),
        builders.v9([builders.template_set(256, FIELDS, False)], domain=4),
        builders.v9([builders.set_of(256, RECORD)], domain=4),
    ]

    def write(layout="pcaps/nfv9/own__one.pcap", **changes):
        golden = {"packet": 3, "exporter": "192.0.2.1", "version": 9, "observation_domain": 4}
        golden |= {"template_id": 256, "src_addr": "192.0.2.1", "bytes": 700, **changes}
        path = tmp_path / layout
        path.parent.mkdir(parents=True)
        path.write_bytes(pcap([ethernet(ip(udp(p))) for p in payloads]))
        (tmp_path / "golden").mkdir()
        name = "__".join(path.relative_to(tmp_path / "pcaps").with_suffix("").parts)
        (tmp_path / "golden" / f"{name}.jsonl.gz").write_bytes(
            gzip.compress(json.dumps(golden).encode() + b"\n")
        )
        return tmp_path

    return write


def test_a_corpus_without_a_manifest_is_run_and_data_before_its_template_is_allowed(corpus):
    (case,) = cases(corpus())
    outcome = run(case, [])
    assert outcome.passed
    assert (outcome.flows.expected, outcome.flows.found, outcome.flows.allowed_extra) == (1, 2, 1)
    assert "nfv9" in table([outcome])


def test_an_unlisted_deviation_fails_and_a_listed_one_does_not(corpus):
    (case,) = cases(corpus(bytes=701))
    assert not run(case, []).passed
    entry = Listed(capture="nfv9__own*", field="bytes", reason="because")
    assert run(case, [entry]).passed
    assert entry.met == 1
    assert not run(case, [Listed(capture="ipfix*", field="bytes", reason="because")]).passed
    assert not run(case, [Listed(capture="nfv9*", field="bytes", reason="", packet=2)]).passed


@pytest.mark.parametrize(("octets", "status"), [(700, 0), (701, 1)])
def test_the_command_ends_with_status_1_if_something_deviates(
    corpus, monkeypatch, capsys, octets, status
):
    directory = corpus("pcaps/flat.pcap", bytes=octets)
    monkeypatch.setattr("sys.argv", ["conformance", str(directory)])
    assert main() == status
    assert ("flat: packet 3: bytes: expected 701, got 700" in capsys.readouterr().out) is bool(
        status
    )


def test_an_empty_corpus_is_said_to_be_empty(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["conformance", str(tmp_path)])
    assert main() == 2
    assert "no captures" in capsys.readouterr().out


def test_a_capture_that_cannot_be_read_fails_and_the_others_go_on(corpus):
    directory = corpus()
    (directory / "pcaps" / "nfv9" / "broken.pcap").write_bytes(b"nothing")
    broken, good = (run(c, []) for c in cases(directory))
    assert "neither pcap nor pcapng" in broken.failure
    assert not broken.passed
    assert good.passed
