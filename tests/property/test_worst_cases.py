"""The dearest datagrams that can be made: none may stop the node for a second."""

from __future__ import annotations

import struct
import time

import pytest

from appliance.batch import DatagramBatch
from tests import builders
from tests.builders import VARIABLE, flow_sample, ipfix, set_of, sflow, tagged, template_set
from tests.decoding import check, decoder

SECONDS = 1.0
"""Of processor time for one datagram of at most 64 KiB; most take a hundredth of it."""
FULL = 60_000
SAME = [(0, 4, 1)] * 1000
LIST = [(0, 292, VARIABLE)]
STEPS = [(0, number % 400 + 1, 1) for number in range(1000)]


def listed(octets):
    return set_of(258, builders.record(LIST, [b"\xff\x01\x00" + octets]))


def nested(depth):
    body = b""
    for _ in range(depth):
        size = bytes([len(body)]) if len(body) < 255 else b"\xff" + struct.pack(">H", len(body))
        body = b"\xff" + struct.pack(">HH", 291, VARIABLE) + size + body
    return body


def layouts(count):
    """Templates 256 and up, each with fields that no other has."""
    one = [builders.template(256 + i, [(0, 4, 1), (61001, i + 1, 2)], True) for i in range(count)]
    return [set_of(2, b"".join(one[i : i + 100])) for i in range(0, count, 100)]


CASES = {
    "a list whose template repeats one element": (
        [template_set(256, SAME, True), template_set(258, LIST, True)],
        [listed(bytes(FULL))],
    ),
    "a list of one-octet records": (
        [template_set(256, SAME[:1], True), template_set(258, LIST, True)],
        [listed(bytes(FULL))],
    ),
    "many records, each with a list": (
        [template_set(256, SAME[:1], True), template_set(258, LIST, True)],
        [set_of(258, b"\x04\xff\x01\x00\x05" * (FULL // 5))],
    ),
    "lists in lists": (
        [template_set(258, [(0, 291, VARIABLE)], True)],
        [set_of(258, builders.record([(0, 291, VARIABLE)], [nested(60)]))],
    ),
    "records of one octet": ([template_set(256, SAME[:1], True)], [set_of(256, bytes(FULL))]),
    "empty variable-length records": (
        [template_set(256, [(0, 82, VARIABLE)], True)],
        [set_of(256, bytes(FULL))],
    ),
    "a thousand variable-length fields": (
        [template_set(256, [(p, i, VARIABLE) for p, i, _ in STEPS], True)],
        [set_of(256, bytes(FULL))],
    ),
    "a thousand fields": ([template_set(256, STEPS, True)], [set_of(256, bytes(FULL))]),
    "one element a thousand times": ([template_set(256, SAME, True)], [set_of(256, bytes(FULL))]),
    "options records of one octet": (
        [builders.options_set(256, SAME[:1], [], True)],
        [set_of(256, bytes(FULL))],
    ),
    "options records of a thousand fields": (
        [builders.options_set(256, SAME[:1], SAME[1:], True)],
        [set_of(256, bytes(FULL))],
    ),
    "options that name thousands of interfaces": (
        [builders.options_set(256, [(0, 10, 2)], [(0, 82, 2)], True)],
        [set_of(256, b"".join(struct.pack(">HH", i, 0x4141) for i in range(FULL // 4)))],
    ),
    "a thousand layouts": (layouts(1000), [set_of(256 + i, bytes(9)) for i in range(1000)]),
    "a template redefined thousands of times": (
        [],
        [set_of(2, b"".join(builders.template(256, [STEPS[i % 400]], True) for i in range(7000)))],
    ),
    "thousands of sets without template": ([], [set_of(300 + i, b"") for i in range(15_000)]),
}
SFLOW = {
    "samples without records": [flow_sample([])] * 1600,
    "one sample of many records": [flow_sample([tagged(1001, bytes(16))] * 2600)],
    "records of many unknown formats": [flow_sample([tagged(5000 + i, b"") for i in range(7000)])],
    "samples of many unknown formats": [tagged(100 + i, b"") for i in range(8000)],
    "counters of many unknown formats": [
        builders.counter_sample([tagged(5000 + i, bytes(4)) for i in range(5000)])
    ],
    "frames of VLAN tags": [flow_sample([builders.raw_header(bytes(12) + b"\x81\0\0\1" * 25)])]
    * 370,
    "frames of IPv6 extensions": [
        flow_sample([builders.raw_header(b"\x60" + bytes(39 + 80), protocol=12)])
    ]
    * 330,
    "frames of MPLS labels": [
        flow_sample([builders.raw_header(bytes(12) + b"\x88\x47" + b"\0\0\x10\x40" * 25)])
    ]
    * 330,
}


def cost(*payloads):
    """Processor seconds of the last datagram, after those before it."""
    decoding = decoder()
    used = 0.0
    for payload in payloads:
        assert len(payload) <= 65_507
        batch = DatagramBatch.from_payloads([payload], received_ns=10**18)
        began = time.process_time()
        decoded = decoding.decode(batch, 10**18)
        used = time.process_time() - began
        check(decoded)
    return used


@pytest.mark.parametrize("name", CASES)
def test_no_ipfix_message_takes_a_second(name):
    before, sets = CASES[name]
    assert cost(ipfix(before), ipfix(sets)) < SECONDS


@pytest.mark.parametrize("name", SFLOW)
def test_no_sflow_datagram_takes_a_second(name):
    assert cost(sflow(SFLOW[name])) < SECONDS
