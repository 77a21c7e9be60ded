"""Capture files: formats, link layers, fragments, TCP streams and damage."""

from __future__ import annotations

import gzip
import ipaddress
import struct

import pytest

from appliance.offline.capture import Capture
from appliance.offline.pcap import CaptureError, CaptureFile
from tests.capture_builders import (
    TIME_NS,
    V4,
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


@pytest.fixture
def capture(tmp_path):
    def make(data, **options):
        path = tmp_path / "a.pcap"
        path.write_bytes(data)
        return Capture(path, **options)

    return make


def read(source):
    """(frame, exporter, exporter port, port, time, session, payload) of every datagram."""
    rows = []
    for batch in source.batches():
        d = batch.datagrams
        for i in range(len(d)):
            address = ipaddress.ip_address(d.address[i].tobytes())
            rows.append(
                (
                    int(batch.frame[i]),
                    str(address.ipv4_mapped or address),
                    int(d.port[i]),
                    int(batch.port[i]),
                    int(d.received_ns[i]),
                    int(d.session[i]),
                    d.payload(i),
                )
            )
    return rows


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_classic_pcap_of_either_byte_order_and_resolution_keeps_time(capture, order, nanoseconds):
    data = pcap([ethernet(ip(udp(b"abc")))], order=order, nanoseconds=nanoseconds)
    assert read(capture(data)) == [(1, V4[0], 50000, 2055, TIME_NS, 0, b"abc")]


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (1, lambda p: ethernet(p)),
        (1, lambda p: ethernet(p, [(0x8100, 5)])),
        (1, lambda p: ethernet(p, [(0x88A8, 9), (0x8100, 5)])),
        (0, lambda p: struct.pack("<I", 2 if p[0] >> 4 == 4 else 30) + p),
        (108, lambda p: struct.pack(">I", 2 if p[0] >> 4 == 4 else 24) + p),
        (101, lambda p: p),
        (113, lambda p: bytes(14) + (b"\x08\x00" if p[0] >> 4 == 4 else b"\x86\xdd") + p),
        (276, lambda p: (b"\x08\x00" if p[0] >> 4 == 4 else b"\x86\xdd") + bytes(18) + p),
    ],
)
@pytest.mark.parametrize("pair", [V4, V6])
def test_every_link_layer_leads_to_the_datagram(capture, link, frame, pair):
    data = pcap([frame(ip(udp(b"xyz"), pair=pair))], link=link)
    assert read(capture(data)) == [(1, pair[0], 50000, 2055, TIME_NS, 0, b"xyz")]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_interfaces_have_their_own_link_type_and_clock(capture, order):
    packet = ip(udp(b"one"))
    data = section(order) + interface(order, 1, 9) + interface(order, 101, 0x80 | 20, shift=100)
    data += enhanced(order, 0, TIME_NS, ethernet(packet)) + enhanced(order, 1, 3 << 19, packet)
    data += block(order, 0x0BAD, b"skipped") + simple(order, ethernet(packet))
    rows = read(capture(data))
    assert [(r[0], r[4]) for r in rows] == [(1, TIME_NS), (2, 101_500_000_000), (3, 0)]
    assert {r[6] for r in rows} == {b"one"}


def test_a_second_section_may_have_the_other_byte_order(capture):
    packet = ethernet(ip(udp(b"one")))
    data = b"".join(
        section(order) + interface(order, 1) + enhanced(order, 0, 5_000_000, packet)
        for order in "<>"
    )
    assert [r[4] for r in read(capture(data))] == [5_000_000_000] * 2


def test_frames_are_counted_over_every_packet_and_batches(capture):
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    packets = [arp if i % 3 == 0 else ethernet(ip(udp(b"%d" % i))) for i in range(3000)]
    source = capture(pcap(packets))
    rows = read(source)
    assert [r[0] for r in rows] == [i + 1 for i in range(3000) if i % 3]
    assert all(r[6] == b"%d" % (r[0] - 1) for r in rows)
    assert "1000 packets: not IP" in source.problems[0]


def test_packets_that_span_chunks_of_the_file_are_whole(capture, monkeypatch):
    monkeypatch.setattr("appliance.offline.pcap.CHUNK", 100)
    packets = [ethernet(ip(udp(bytes([i]) * 300))) for i in range(20)]
    assert [r[6] for r in read(capture(pcap(packets)))] == [bytes([i]) * 300 for i in range(20)]


def test_gzip_is_read_like_the_file_itself(capture):
    data = pcap([ethernet(ip(udp(b"abc")))])
    middle = len(data) // 2
    members = gzip.compress(data[:middle]) + gzip.compress(data[middle:])
    assert [r[6] for r in read(capture(members))] == [b"abc"]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_file_cut_at_the_end_gives_what_is_whole_and_says_so(capture, compress):
    packets = [ethernet(ip(udp(bytes(100)))) for _ in range(5)]
    data = compress(pcap(packets))
    source = capture(data[: len(data) - (20 if compress is bytes else 9)])
    rows = read(source)
    assert len(rows) >= (4 if compress is bytes else 1)
    assert "a.pcap" in source.problems[0]
    assert "byte" in source.problems[0] or "gzip" in source.problems[0]


def test_a_damaged_packet_length_is_an_error_with_file_offset_and_remedy(capture):
    good = pcap([ethernet(ip(udp(b"abc")))])
    source = capture(good + struct.pack("<4I", 1, 1, 0x7FFFFFFF, 1))
    rows = []
    with pytest.raises(CaptureError, match=rf"a\.pcap: at byte {len(good)}: .*damaged"):
        rows.extend(batch for batch in source.batches())
    assert source.problems == []


def test_packets_before_the_damage_are_read(tmp_path):
    path = tmp_path / "b.pcap"
    path.write_bytes(pcap([ethernet(ip(udp(b"abc")))]) + struct.pack("<4I", 1, 1, 0x7FFFFFFF, 1))
    packets = CaptureFile(path).packets()
    assert len(next(packets)) == 1


@pytest.mark.parametrize("size", [0, 8, 14, 0xFFFFFFF0])
def test_a_damaged_pcapng_block_is_an_error(capture, size):
    data = section("<") + interface("<", 1)
    with pytest.raises(CaptureError, match=f"at byte {len(data)}"):
        read(capture(data + struct.pack("<III", 6, size, 0) + bytes(8)))


def test_a_packet_of_an_undescribed_interface_is_an_error(capture):
    with pytest.raises(CaptureError, match="interface 3"):
        read(capture(section("<") + interface("<", 1) + enhanced("<", 3, 0, b"abcd")))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "an empty file"),
        (b"GET / HTTP/1.1\r\n", "neither pcap nor pcapng; .*editcap"),
        (b"\x28\xb5\x2f\xfd" + bytes(40), "compressed with zstd; decompress"),
    ],
)
def test_what_is_no_capture_is_refused_with_a_remedy(capture, data, says):
    with pytest.raises(CaptureError, match=says):
        read(capture(data))


def test_a_missing_file_is_an_error_with_its_name(tmp_path):
    with pytest.raises(CaptureError, match=r"none\.pcap.*No such file.*check the path"):
        read(Capture(tmp_path / "none.pcap"))


def test_an_unknown_link_type_is_reported_not_guessed(capture):
    source = capture(pcap([bytes(60)] * 2, link=105))
    assert read(source) == []
    assert "2 packets: link type 105 is not supported" in " ".join(source.problems)


def test_ipv4_fragments_in_any_order_make_one_datagram_at_the_last_packet(capture):
    body = udp(bytes(range(256)) * 12)
    pieces = [(0, 0x2000), (1480, 0x2000), (2960, 0)]
    packets = [ethernet(ip(body[at : at + 1480], flags=flag | at // 8)) for at, flag in pieces]
    for order in ((0, 1, 2), (2, 0, 1), (1, 1, 2, 0)):
        rows = read(capture(pcap([packets[i] for i in order])))
        assert [(r[0], r[6]) for r in rows] == [(len(order), body[8:])]


def test_ipv6_fragments_behind_another_extension_header_make_one_datagram(capture):
    body = udp(bytes(2000))
    packets = []
    for at, more in ((0, 1), (1400, 0)):
        part = body[at : at + 1400]
        options = bytes([44, 0]) + bytes(6)
        header = struct.pack(">BBHI", 17, 0, at | more, 99)
        packets.append(ethernet(ip(options + header + part, protocol=0, pair=V6)))
    whole = ethernet(ip(struct.pack(">BBHI", 17, 0, 0, 1) + udp(b"atom"), protocol=44, pair=V6))
    rows = read(capture(pcap([packets[0], whole, packets[1]])))
    assert [(r[0], r[6]) for r in rows] == [(2, b"atom"), (3, bytes(2000))]


def test_fragments_without_their_rest_are_bounded_and_reported(capture):
    packets = [ethernet(ip(bytes(64), identification=i, flags=0x2000)) for i in range(3000)]
    source = capture(pcap(packets))
    assert read(source) == []
    assert "3000 packets: fragments of datagrams that never became whole" in source.problems[-1]
    assert len(source._fragments) <= 1024


def test_a_capture_with_a_short_snap_length_is_decoded_as_far_as_it_goes(capture):
    source = capture(pcap([ethernet(ip(udp(bytes(range(100)))))], cut=40))
    assert read(source)[0][6] == bytes(range(60))
    assert "snap length" in source.problems[0]


def test_padding_of_the_link_layer_is_no_payload(capture):
    rows = read(capture(pcap([ethernet(ip(udp(b"ab"))) + bytes(20)])))
    assert rows[0][6] == b"ab"


def test_only_the_wanted_ports_are_read(capture):
    packets = [ethernet(ip(udp(b"a", port=p))) for p in (53, 2055, 6343)]
    rows = read(capture(pcap(packets), ports=frozenset({2055, 6343})))
    assert [(r[0], r[3]) for r in rows] == [(2, 2055), (3, 6343)]


def message(body):
    return struct.pack(">HHIII", 10, 16 + len(body), 1, 2, 3) + body


def test_ipfix_messages_are_cut_out_of_a_tcp_stream_in_any_order(capture):
    stream = message(b"one!") + message(b"second") + message(bytes(3000))
    start = 0xFFFFFFF0  # the sequence numbers wrap
    cuts = [(0, 10), (10, 30), (30, 1500), (1500, len(stream))]
    parts = [tcp(stream[a:b], start + 1 + a) for a, b in cuts]
    syn = tcp(b"", start, flags=2)
    packets = [syn, parts[0], parts[2], parts[1], parts[1], parts[3]]
    rows = read(capture(pcap(packets)))
    assert [r[6] for r in rows] == [message(b"one!"), message(b"second"), message(bytes(3000))]
    assert {r[5] for r in rows} == {1}
    assert [r[0] for r in rows] == [4, 4, 6]


def test_a_stream_captured_from_its_middle_starts_at_the_next_message(capture):
    packets = [tcp(b"rest of a message", 1000), tcp(message(b"new"), 1017)]
    assert [r[6] for r in read(capture(pcap(packets)))] == [message(b"new")]


def test_a_hole_in_a_stream_is_given_up_within_bounds(capture):
    packets = [tcp(b"", 0, flags=2), tcp(message(b"before"), 1)]
    sequence = 1 + len(message(b"before")) + 500
    for i in range(900):
        packets.append(tcp(message(struct.pack(">I", i) + bytes(1400)), sequence))
        sequence += 1420
    source = capture(pcap(packets))
    rows = read(source)
    assert rows[0][6] == message(b"before")
    assert rows[-1][6] == message(struct.pack(">I", 899) + bytes(1400))
    assert "1 packets: gaps in TCP streams" in source.problems[-1]


def test_a_new_connection_of_the_same_ports_is_another_session(capture):
    packets = [tcp(b"", 10, flags=2), tcp(message(b"a"), 11)]
    packets += [tcp(b"", 99, flags=2), tcp(message(b"b"), 100)]
    assert [(r[5], r[6]) for r in read(capture(pcap(packets)))] == [
        (1, message(b"a")),
        (2, message(b"b")),
    ]
