"""Any bytes as a capture file: datagrams, or an error that names the file; never anything else."""

from __future__ import annotations

import gzip
import re
import struct

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from appliance.offline.capture import Capture
from appliance.offline.pcap import CaptureError
from tests.capture_builders import (
    V6,
    block,
    enhanced,
    ethernet,
    interface,
    ip,
    pcap,
    section,
    simple,
    tcp,
    udp,
)

MESSAGE = struct.pack(">HHIII", 10, 20, 1, 2, 3) + b"body"
PACKETS = [
    ethernet(ip(udp(b"payload"))),
    ethernet(ip(udp(b"six"), pair=V6), [(0x8100, 7)]),
    ethernet(ip(udp(bytes(40))[:24], flags=0x2000)),
    ethernet(ip(udp(bytes(40))[24:], flags=3)),
    ethernet(ip(struct.pack(">BBHI", 17, 0, 1, 5) + udp(b"first"), protocol=44, pair=V6)),
    tcp(b"", 99, flags=2),
    tcp(MESSAGE[:7], 100),
    tcp(MESSAGE[7:] + MESSAGE, 107),
]
FILES = [
    pcap(PACKETS),
    pcap(PACKETS, order=">", nanoseconds=True),
    section("<")
    + interface("<", 1, 9)
    + b"".join(enhanced("<", 0, 5, p) for p in PACKETS)
    + block("<", 4, b"names"),
    section(">") + interface(">", 1) + b"".join(simple(">", p) for p in PACKETS),
    *(pcap([p[14:] for p in PACKETS], link=link) for link in (101, 0, 113, 276, 12)),
]


@st.composite
def captures(draw):
    """A capture of which some octets are others, and which may end early or be compressed."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(
            st.one_of(st.sampled_from([0, 1, 4, 127, 128, 255]), st.integers(0, 255))
        )
    cut = bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)
    if draw(st.integers(0, 4)):
        return cut
    packed = bytearray(gzip.compress(cut))
    if draw(st.booleans()):
        packed[draw(st.integers(2, len(packed) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(packed)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("captures") / "any.pcap"


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=captures())
def test_a_damaged_capture_gives_datagrams_or_a_capture_error(path, data):
    path.write_bytes(data)
    capture = Capture(path)
    frames, failure = 0, ""
    try:
        for batch in capture.batches():
            rows = batch.datagrams
            assert len(rows) == len(batch.frame) == len(batch.port)
            assert ((rows.offset >= 0) & (rows.length >= 0)).all()
            assert (rows.offset + rows.length <= len(rows.buffer)).all()
            assert (np.diff(batch.frame) >= 0).all()
            assert batch.frame[0] >= frames
            frames = int(batch.frame[-1])
            assert (rows.received_ns >= 0).all()
    except CaptureError as error:
        failure = str(error)
    # named: the file, what is wrong with it, and a remedy
    assert not failure or re.fullmatch(r".*any\.pcap: .+; .+", failure)
    assert all("any.pcap" in problem for problem in capture.problems)
