"""``tandem decode``: the keys and values of the JSON, and what is said about a file."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from appliance.cli.decode import decode as command
from appliance.columns import Column, record_batch
from appliance.offline.decode import decode_files
from appliance.offline.render import Renderer
from appliance.schema import ADDRESS, CANONICAL, EXTRA, LABELS
from tests import builders
from tests.capture_builders import ethernet, ip, pcap, udp
from tests.decoding import registry

FIELDS = [(0, 8, 4), (0, 1, 4)]
ROW = bytes([203, 0, 113, 7]) + (700).to_bytes(4, "big")
TEMPLATE = builders.template_set(256, FIELDS, True)
DATA = builders.set_of(256, ROW)


def address(text):
    import ipaddress

    return ipaddress.ip_address(text).packed


def one(**columns):
    """The JSON of one record with these columns (value, or None for null)."""
    made = {
        "exporter": Column(
            np.frombuffer(address("::ffff:192.0.2.1"), np.uint8).reshape(1, 16), ADDRESS
        )
    }
    for name, (value, kind) in columns.items():
        if kind == ADDRESS:
            made[name] = Column(np.frombuffer(address(value), np.uint8).reshape(1, 16), ADDRESS)
        else:
            made[name] = Column(pa.array([value], kind), kind)
    (line,) = Renderer(registry()).lines(record_batch(made), pa.array([9]))
    return json.loads(line)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        ({"export_protocol": (105, pa.uint8())}, {"version": 5, "export_protocol": "sflow_v5"}),
        ({"export_protocol": (9, pa.uint8())}, {"version": 9, "export_protocol": "netflow_v9"}),
        ({"start_ns": (1_999_999, pa.int64())}, {"start_ms": 1}),
        ({"rev_end_ns": (2_000_000, pa.int64())}, {"rev_end_ms": 2}),
        ({"event_ns": (3_000_000, pa.int64())}, {"event_time_ms": 3}),
        ({"bytes_element": (231, pa.uint16())}, {"bytes_field": "initiator_octets"}),
        ({"packets_element": (24, pa.uint16())}, {"packets_field": "post_packets"}),
        ({"src_mac": (0x0242AC110002, pa.uint64())}, {"src_mac": "02:42:ac:11:00:02"}),
        ({"post_dst_mac_2": (1, pa.uint64())}, {"post_dst_mac_2": "00:00:00:00:00:01"}),
        ({"src_addr": ("2001:db8::7", ADDRESS)}, {"src_addr": "2001:db8::7"}),
        ({"mpls_labels": ([16, 3], LABELS)}, {"mpls_labels": [16, 3]}),
        ({"mpls_labels": ([], LABELS)}, {"mpls_labels": []}),
        ({"sampling_source": (2, pa.uint8())}, {"sampling_source": "options"}),
        ({"tunnel_type": (3, pa.uint8())}, {"tunnel_type": "vxlan"}),
        ({"from_frame": (True, pa.bool_())}, {"from_frame": True}),
        ({"from_frame": (False, pa.bool_())}, {}),
        ({"bytes": (2**64 - 1, pa.uint64())}, {"bytes": 2**64 - 1}),
        ({"bytes": (None, pa.uint64())}, {}),
        ({"app_name": ('a"\\\n€', pa.string())}, {"app_name": 'a"\\\n€'}),
        ({"blob": (b"\0\xff", pa.binary())}, {"blob": "00ff"}),
        ({"ratio": (float("nan"), pa.float64())}, {"ratio": None}),
        ({"extra": ([("9.1", "ff")], EXTRA)}, {"extra": {"9.1": "ff"}}),
        ({"kind": (1, pa.uint8())}, {"kind": "flow_sample"}),
        (
            {"kind": (1, pa.uint8()), "in_if_format": (0, pa.uint8())},
            {"kind": "expanded_flow_sample", "in_if_format": 0},
        ),
        ({"kind": (2, pa.uint8())}, {"kind": "discard_sample"}),
    ],
)
def test_a_column_is_shown_by_its_key_and_in_its_form(columns, shown):
    assert one(**columns) == {"packet": 9, "exporter": "192.0.2.1", **shown}


@pytest.mark.parametrize(("protocol", "there"), [(1, False), (5, False), (7, False), (10, True)])
def test_the_observation_domain_is_shown_for_protocols_that_send_one(protocol, there):
    row = one(export_protocol=(protocol, pa.uint8()), observation_domain=(4, pa.uint32()))
    assert ("observation_domain" in row) is there


def test_every_canonical_column_can_be_shown():
    values = {pa.bool_(): True, pa.string(): "x", LABELS: [1], EXTRA: [("k", "v")]}
    columns = {}
    for name, kind in CANONICAL.items():
        columns[name] = ("2001:db8::1" if kind == ADDRESS else values.get(kind, 1), kind)
    assert len(one(**columns)) >= len(CANONICAL)


@pytest.fixture
def capture(tmp_path):
    def make(*payloads, name="a.pcap", exporter="192.0.2.1", port=2055):
        path = tmp_path / name
        packets = [
            ethernet(ip(udp(p, port=port), pair=(exporter, "198.51.100.9"))) for p in payloads
        ]
        path.write_bytes(pcap(packets))
        return path

    return make


def records(*paths, **options):
    return [json.loads(line) for lines in decode_files(paths, **options) for line in lines]


def test_records_come_in_the_order_of_packets_with_their_numbers(capture):
    path = capture(
        builders.ipfix([TEMPLATE]),
        builders.v5([builders.v5_record()]),
        builders.ipfix([DATA]),
        builders.v5([builders.v5_record()] * 2),
    )
    assert [(r["packet"], r["version"]) for r in records(path)] == [(2, 5), (3, 10), (4, 5), (4, 5)]


def test_data_that_waited_for_its_template_keeps_the_number_of_its_packet(capture, monkeypatch):
    monkeypatch.setattr("appliance.offline.pcap.BATCH", 1)
    path = capture(builders.ipfix([DATA]), builders.v5(), builders.ipfix([TEMPLATE]))
    assert [(r["packet"], r["bytes"]) for r in records(path)] == [(1, 700)]


def test_each_file_has_templates_of_its_own_unless_together(capture):
    one = capture(builders.ipfix([TEMPLATE]), name="1.pcap")
    two = capture(builders.ipfix([DATA]), name="2.pcap")
    problems: list[str] = []
    assert records(one, two, problems=problems) == []
    assert problems == [f"{two}: 1 datagrams hold data whose template did not come"]
    assert [r["bytes"] for r in records(one, two, together=True)] == [700]


def test_data_that_waited_and_then_does_not_fit_is_reported_as_malformed(capture, monkeypatch):
    monkeypatch.setattr("appliance.offline.pcap.BATCH", 1)
    short = builders.ipfix([builders.set_of(256, ROW[:5])])
    path = capture(short, builders.ipfix([TEMPLATE]))
    problems: list[str] = []
    assert records(path, problems=problems) == []
    assert problems == [f"{path}: 1 datagrams are malformed_data; see --errors"]


def test_options_counters_and_errors_are_shown_on_request_and_told_by_type(capture):
    options = builders.options_set(257, [(0, 149, 4)], [(0, 34, 4)], True)
    path = capture(
        builders.ipfix([options, builders.set_of(257, b"\0\0\0\1\0\0\0\x64")], domain=3),
        builders.sflow([builders.counter_sample([builders.tagged(1, bytes(88))])]),
        b"\0\x63nothing",
    )
    assert records(path) == []
    everything = records(path, options=True, counters=True, errors=True)
    assert [(r["packet"], r["type"]) for r in everything] == [
        (1, "options"),
        (2, "counters"),
        (3, "error"),
    ]
    option, counter, error = everything
    assert (option["version"], option["observation_domain"], option["template_id"]) == (10, 3, 257)
    assert 100 in option["fields"].values()
    assert 1 in option["scope"].values()
    assert (counter["kind"], counter["if_in_octets"]) == ("counter_sample", 0)
    assert (error["status"], error["exporter"]) == ("unknown_version", "192.0.2.1")


def test_the_command_prints_lines_and_says_what_was_wrong(capture):
    path = capture(builders.v5([builders.v5_record()]), b"\0\x63nothing")
    done = CliRunner().invoke(command, [str(path)])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["bytes"] == 424242
    assert f"{path}: 1 datagrams are of no version that is known" in done.stderr


def test_a_file_that_ends_early_gives_its_records_and_a_warning(capture):
    path = capture(builders.v5([builders.v5_record()]), builders.v5([builders.v5_record()]))
    path.write_bytes(path.read_bytes()[:-10])
    done = CliRunner().invoke(command, [str(path)])
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 1
    assert "ends inside a packet" in done.stderr


def test_a_file_that_is_no_capture_ends_with_status_1_after_the_files_before_it(capture, tmp_path):
    good = capture(builders.v5([builders.v5_record()]))
    bad = tmp_path / "bad.pcap"
    bad.write_bytes(b"no capture")
    done = CliRunner().invoke(command, [str(good), str(bad)])
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 1
    assert "bad.pcap: neither pcap nor pcapng" in done.stderr


def test_elements_of_ones_own_give_their_names(capture, tmp_path):
    field = (61001, 5, 4)
    path = capture(
        builders.ipfix([builders.template_set(256, [field], True), builders.set_of(256, ROW[4:])])
    )
    (row,) = records(path)
    assert row["extra"] == {"61001.5": "000002bc"}
    more = tmp_path / "own.csv"
    more.write_text("pen,id,name,type\n61001,5,fooCount,unsigned32\n")
    (row,) = records(path, elements=[more])
    assert row["foo_count"] == 700
    more.write_text("pen,id,name,type\n61001,5,fooCount,colour\n")
    done = CliRunner().invoke(command, [str(path), "--elements", str(more)])
    assert done.exit_code == 1
    assert "own.csv:2" in done.stderr


def test_a_reader_that_stops_early_is_no_error(capture):
    path = capture(*[builders.v5([builders.v5_record()] * 30) for _ in range(1000)])
    code = "import sys; from appliance.cli.decode import decode; decode()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0
