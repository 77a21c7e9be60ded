"""Replay: who sends, how fast, and what is said when it does not work."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np
import pytest
from click.testing import CliRunner

from appliance.cli.replay import replay as command
from appliance.offline import replay as module
from appliance.offline.replay import Pace, ReplayError, parse_target, replay
from tests.capture_builders import ethernet, ip, pcap, udp


@pytest.fixture
def collector():
    """A bound socket, its port, and a function that gives all (source, payload) it received."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 0))
    listener.settimeout(0.2)

    def received():
        rows = []
        while True:
            try:
                data, source = listener.recvfrom(65536)
            except TimeoutError:
                return rows
            rows.append((source[0], data))

    with listener:
        yield listener.getsockname()[1], received


def capture(path, payloads):
    """A capture of (exporter, port, payload)."""
    packets = [
        ethernet(ip(udp(data, source_port=port), pair=(address, "198.51.100.9")))
        for address, port, data in payloads
    ]
    path.write_bytes(pcap(packets))
    return path


def test_each_exporter_sends_from_an_address_of_its_own_in_the_original_order(collector, tmp_path):
    port, received = collector
    sent = [(f"240.0.0.{i % 3}", 1000 + i % 2, b"%d" % i) for i in range(60)]
    total = replay([capture(tmp_path / "a.pcap", sent)], f"127.0.0.1:{port}")
    rows = received()
    assert [data for _, data in rows] == [data for _, _, data in sent]
    assert {s for s, _ in rows} == {"127.64.0.1", "127.64.0.2", "127.64.0.3"}
    assert [s for s, _ in rows] == [total.sources[e] for e, _, _ in sent]
    assert (total.datagrams, total.octets) == (60, sum(len(d) for _, _, d in sent))


def test_an_exporter_whose_address_this_host_has_sends_from_it(collector, tmp_path):
    port, received = collector
    path = capture(tmp_path / "a.pcap", [("127.9.8.7", 1, b"x")])
    replay([path], f"127.0.0.1:{port}")
    assert received() == [("127.9.8.7", b"x")]


def test_an_exporter_keeps_its_address_when_its_socket_had_to_make_room(
    collector, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "MAX_SOCKETS", 2)
    port, received = collector
    sent = [(f"240.0.0.{i % 5}", 1, b"%d" % i) for i in range(40)]
    replay([capture(tmp_path / "a.pcap", sent)], f"127.0.0.1:{port}")
    sources = {}
    for (exporter, _, _), (source, _) in zip(sent, received(), strict=True):
        assert sources.setdefault(exporter, source) == source
    assert len(set(sources.values())) == 5


def test_loop_sends_every_file_again(collector, tmp_path):
    port, received = collector
    files = [capture(tmp_path / f"{n}.pcap", [("240.0.0.1", 1, n)]) for n in (b"a", b"b")]
    replay(files, f"127.0.0.1:{port}", loop=3)
    assert [data for _, data in received()] == [b"a", b"b"] * 3


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(module.time, "sleep", self.sleep)

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds + 0.0001  # a real sleep is never exact


@pytest.mark.parametrize("rate", [1, 90, 5000, 50_000])
def test_the_rate_is_kept_in_bursts_of_at_most_ten_milliseconds(monkeypatch, rate):
    clock = Clock(monkeypatch)
    pace = Pace(rate)
    pace.restart(0)
    start, sent = clock.now, 0
    times = np.zeros(max(2 * rate, 4), np.int64)
    while sent < len(times):
        count = pace.grant(times, sent)
        assert 1 <= count <= max(1, rate * 0.01)
        sent += count
    assert (sent - 1) / (clock.now - start) == pytest.approx(rate, rel=0.01)


def test_a_sender_that_was_held_up_does_not_catch_up_in_a_burst(monkeypatch):
    clock = Clock(monkeypatch)
    pace = Pace(1000)
    pace.restart(0)
    times = np.zeros(10_000, np.int64)
    pace.grant(times, 0)
    clock.now += 2.0
    assert pace.grant(times, 1) == 10
    before = clock.now
    assert sum(pace.grant(times, 11) for _ in range(5)) <= 11
    assert clock.now > before


def test_realtime_keeps_the_gaps_of_the_capture(monkeypatch):
    clock = Clock(monkeypatch)
    pace = Pace(realtime=True)
    times = np.array([0, 0, 500_000_000, 500_000_000, 2_000_000_000], np.int64) + 7 * 10**9
    pace.restart(int(times[0]))
    start, at, log = clock.now, 0, []
    while at < len(times):
        count = pace.grant(times, at)
        log.append((round(clock.now - start, 2), count))
        at += count
    assert log == [(0.0, 2), (0.5, 2), (2.0, 1)]


def test_the_real_clock_is_close_to_the_rate(collector, tmp_path):
    port, _ = collector
    path = capture(tmp_path / "a.pcap", [("240.0.0.1", 1, b"x")] * 400)
    began = time.perf_counter()
    replay([path], f"127.0.0.1:{port}", rate=1000)
    assert 0.39 < time.perf_counter() - began < 0.8


@pytest.mark.parametrize("text", ["here", "host:", ":2055", "h:0", "h:65536", "h:x"])
def test_a_target_without_a_port_is_refused_with_the_form_to_write(text):
    with pytest.raises(ReplayError, match="write HOST:PORT"):
        parse_target(text)


def test_ipfix_goes_over_tcp_as_whole_messages(tmp_path):
    message = b"\0\x0a\0\x14" + bytes(16)
    sent = [("240.0.0.1", 1, message), ("240.0.0.1", 1, b"\0\x05rest"), ("240.0.0.1", 1, message)]
    path = capture(tmp_path / "a.pcap", sent)
    with socket.create_server(("127.0.0.1", 0)) as server:
        got = []

        def accept():
            connection, peer = server.accept()
            with connection:
                data = b""
                while part := connection.recv(4096):
                    data += part
            got.append((peer[0], data))

        thread = threading.Thread(target=accept)
        thread.start()
        total = replay([path], f"127.0.0.1:{server.getsockname()[1]}", tcp=True)
        thread.join(5)
    assert got == [("127.64.0.1", message * 2)]
    assert (total.datagrams, total.skipped) == (2, 1)


def test_the_command_says_that_nothing_listens(tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    path = capture(tmp_path / "a.pcap", [("240.0.0.1", 1, b"x")] * 20)
    result = CliRunner().invoke(command, [str(path), "--to", f"127.0.0.1:{port}", "--rate", "500"])
    assert result.exit_code == 0
    assert "nothing listened at the target" in result.stderr
    assert "exporter 240.0.0.1: sent from 127.64.0.1" in result.stderr


def test_the_command_refuses_a_damaged_capture_with_its_name(tmp_path):
    path = tmp_path / "b.pcap"
    path.write_bytes(b"no capture at all")
    result = CliRunner().invoke(command, [str(path), "--to", "127.0.0.1:9"])
    assert result.exit_code == 1
    assert "b.pcap: neither pcap nor pcapng" in result.stderr
    assert "0 datagrams" not in result.stderr
