"""Receiving: steering by exporter, the receiving thread, IPFIX over TCP."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.config import Config
from appliance.journal.block import Block, Geometry
from appliance.journal.journal import Journal
from appliance.receive import sockets, steer, systemd, tcp
from appliance.receive.listeners import Listeners
from appliance.receive.receiver import Intake, Receiver, StreamIntake
from appliance.receive.recvmmsg import receive
from appliance.receive.sockets import (
    Endpoint,
    ListenError,
    complete_group,
    open_group,
    open_tcp,
)


def free_port(kind: int = socket.SOCK_DGRAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal", 1 << 26, Geometry(slots=64, areas=16))
    journal.recover(0)
    yield journal
    journal.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.stop()
    assert receiver.error is None


def payloads(journal: Journal) -> list[bytes]:
    result = []
    while (batch := journal.read(1000)) is not None:
        result += [batch.payload(i) for i in range(len(batch))]
    return result


@pytest.mark.parametrize("address", ["127.0.0.1", "::"])
def test_an_exporter_stays_on_its_socket_whatever_its_port(address: str) -> None:
    port = free_port()
    group = open_group(Endpoint("udp", address, port), 4, 1 << 20)
    seen: dict[str, set[int]] = {}
    for i in range(1, 40):
        exporter = f"127.0.{i}.{i}"
        for _ in range(3):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((exporter, 0))
                sender.sendto(b"x", ("127.0.0.1", port))
            for k, sock in enumerate(group):
                try:
                    sock.recv(10)
                except BlockingIOError:
                    continue
                seen.setdefault(exporter, set()).add(k)
        expected = steer.index_of(ipaddress.ip_address(exporter).packed, 4)
        assert seen[exporter] == {expected}
    assert set.union(*seen.values()) == {0, 1, 2, 3}
    for sock in group:
        sock.close()


def test_a_port_in_use_is_an_error_that_says_what_to_do() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(ListenError, match=f"{port}.*another program has this port"):
            open_group(Endpoint("udp", "127.0.0.1", port), 2, 1 << 20)


def test_an_intake_can_be_added_and_removed_while_datagrams_arrive(
    receiver: Receiver, journal: Journal
) -> None:
    port = free_port()
    group = open_group(Endpoint("udp", "127.0.0.1", port), 1, 1 << 20)
    intake = Intake("test", group[0], journal)
    with group[0], socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port))
        receiver.add([intake], [])
        for i in range(150):
            sender.send(str(i).encode())
        wait_for(lambda: intake.datagrams == 150)
        receiver.remove(journal)
        sender.send(b"after")
        time.sleep(0.05)
        assert intake.datagrams == 150
        assert intake.bytes == sum(len(str(i)) for i in range(150))
        assert payloads(journal) == [str(i).encode() for i in range(150)]
        receiver.add([intake], [])
        wait_for(lambda: intake.datagrams == 151)
        assert payloads(journal) == [b"after"]


def message(size: int, number: int) -> bytes:
    return struct.pack(">HHIII", 10, size, 0, number, 1) + os.urandom(size - 16)


@pytest.fixture
def stream(receiver: Receiver, journal: Journal, request) -> Iterator[StreamIntake]:
    port = free_port(socket.SOCK_STREAM)
    listener = open_tcp(Endpoint("tcp", "127.0.0.1", port))
    stream = StreamIntake("test", listener, journal, getattr(request, "param", False))
    receiver.add([], [stream])
    yield stream
    receiver.remove(journal)
    listener.close()


def test_messages_of_a_stream_are_framed_whatever_the_segments(
    stream: StreamIntake, journal: Journal
) -> None:
    sent = [message(size, i) for i, size in enumerate((16, 100, 2048, 2049, 65535, 20, 9000))]
    data = b"".join(sent)
    with socket.create_connection(stream.sock.getsockname()) as exporter:
        exporter.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), 777):
            exporter.sendall(data[start : start + 777])
            if start % 7 == 0:
                time.sleep(0.001)
        wait_for(lambda: stream.datagrams == len(sent))
        port = exporter.getsockname()[1]
    batch = journal.read(100)
    assert batch is not None
    assert [batch.payload(i) for i in range(len(batch))] == sent
    assert set(batch.port.tolist()) == {port}
    assert batch.session.all()
    wait_for(lambda: len(stream.ended) == 1)
    assert stream.ended[0] == (len(sent), int(batch.session[0]))


def test_each_connection_is_a_session_of_its_own(stream: StreamIntake, journal: Journal) -> None:
    for _ in range(3):
        with socket.create_connection(stream.sock.getsockname()) as exporter:
            exporter.sendall(message(40, 0))
    wait_for(lambda: stream.datagrams == 3)
    batch = journal.read(10)
    assert batch is not None
    assert len(set(batch.session.tolist())) == 3


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\0\x0a\0\x0f" + bytes(20)])
def test_a_stream_that_is_not_ipfix_is_ended_and_counted(stream: StreamIntake, junk: bytes) -> None:
    with socket.create_connection(stream.sock.getsockname()) as exporter:
        exporter.sendall(junk)
        exporter.settimeout(5)
        try:
            answer = exporter.recv(1)
        except ConnectionResetError:
            answer = b""
        assert answer == b""
    assert stream.framing_errors == 1


def test_a_message_that_never_comes_whole_ends_with_its_connection(stream: StreamIntake) -> None:
    with socket.create_connection(stream.sock.getsockname()) as exporter:
        exporter.sendall(message(100, 0)[:60])
        time.sleep(0.05)
    wait_for(lambda: len(stream.ended) == 1)
    assert stream.datagrams == 0


def test_short_messages_after_a_long_one_do_not_wait_for_more(stream: StreamIntake) -> None:
    with socket.create_connection(stream.sock.getsockname()) as exporter:
        long = message(60_000, 0)
        exporter.sendall(long[:100])
        time.sleep(0.05)
        exporter.sendall(long[100:] + b"".join(message(20, i) for i in range(300)))
        wait_for(lambda: stream.datagrams == 301)


@pytest.mark.parametrize("stream", [False, True], indirect=True)
@pytest.mark.parametrize("size", [1, 3, 13, 50])
def test_an_exporter_that_stops_amid_a_message_costs_no_time(
    stream: StreamIntake, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    ready = tcp.Session.ready
    monkeypatch.setattr(tcp.Session, "ready", lambda self: looks.append(1) or ready(self))
    data = proxy_header("192.0.2.7", 40000) if stream.proxy_protocol else b""
    data += message(100, 0)
    with socket.create_connection(stream.sock.getsockname()) as exporter:
        exporter.sendall(data[:size])
        time.sleep(0.3)
        assert 1 <= len(looks) <= 3
        exporter.sendall(data[size:])
        wait_for(lambda: stream.datagrams == 1)


def test_a_connection_that_breaks_ends_its_session_and_no_other(
    stream: StreamIntake, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken by the exporter, by the network, by what no exporter sends."""
    address = stream.sock.getsockname()
    with socket.create_connection(address) as good:
        with socket.create_connection(address) as exporter:
            exporter.sendall(message(100, 0)[:60])
            exporter.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_for(lambda: len(stream.ended) == 1)
        with socket.create_connection(address) as exporter:
            exporter.sendall(message(100, 0)[:60])
            exporter.send(b"!", socket.MSG_OOB)
            wait_for(lambda: len(stream.ended) == 2)
        with monkeypatch.context() as patch, socket.create_connection(address) as exporter:

            def ready(session: tcp.Session) -> int:
                raise TimeoutError(110, "Connection timed out")

            patch.setattr(tcp.Session, "ready", ready)
            exporter.sendall(b"x")
            wait_for(lambda: len(stream.ended) == 3)
        good.sendall(message(50, 1))
        wait_for(lambda: stream.datagrams == 1)


def test_sessions_beyond_what_the_process_may_open_are_refused(
    stream: StreamIntake, receiver: Receiver
) -> None:
    receiver._max_sessions = 2
    address = stream.sock.getsockname()
    with socket.create_connection(address) as one, socket.create_connection(address) as two:
        wait_for(lambda: len(receiver.sessions) == 2)
        with socket.create_connection(address) as three:
            wait_for(lambda: stream.sessions_refused == 1)
            assert three.recv(1) == b""
        for exporter in (one, two):
            exporter.sendall(message(30, 0))
        wait_for(lambda: stream.datagrams == 2)


def test_who_connects_and_says_nothing_does_not_stay(
    stream: StreamIntake, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = stream.sock.getsockname()
    with socket.create_connection(address) as silent, socket.create_connection(address) as speaks:
        speaks.sendall(message(30, 0))
        wait_for(lambda: stream.datagrams == 1 and len(receiver.sessions) == 2)
        monkeypatch.setattr("appliance.receive.receiver.SESSION_SILENT_NS", 10_000_000)
        wait_for(lambda: len(receiver.sessions) == 1)
        assert silent.recv(1) == b""
        speaks.sendall(message(30, 1))
        wait_for(lambda: stream.datagrams == 2)


def test_what_has_come_is_received_before_a_session_ends_with_its_worker(
    journal: Journal,
) -> None:
    receiver = Receiver()  # not started: nothing is received before its time
    stream = StreamIntake("test", open_tcp(Endpoint("tcp", "127.0.0.1", 0)), journal, False)
    with stream.sock, socket.create_connection(stream.sock.getsockname()) as exporter:
        exporter.sendall(b"".join(message(100, n) for n in range(150)) + message(100, 150)[:50])
        wait_for(lambda: receiver._accept(stream) or len(receiver.sessions) == 1)
        time.sleep(0.05)
        receiver._remove(journal)
        assert (stream.datagrams, journal.position) == (150, 150)
        assert not receiver.sessions
        assert len(stream.ended) == 1


def test_a_slot_that_a_stream_did_not_fill_takes_a_datagram(journal: Journal) -> None:
    block = journal.open_block()
    assert block is not None
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    session = tcp.Session(ours, 7, bytes(16), 4739, proxied=False)
    with ours, theirs:
        assert session.read_into(block, 30) == 0
    port = free_port()
    (sock,) = open_group(Endpoint("udp", "127.0.0.1", port), 1, 1 << 20)
    with sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x" * 3000, ("127.0.0.1", port))
        journal.received(block, receive(sock.fileno(), block.message_address(0), 1))
    batch = journal.read(1)
    assert batch is not None
    assert batch.payload(0) == b"x" * 3000
    assert batch.address[0].tobytes() == tcp.packed("127.0.0.1")
    assert batch.session.tolist() == [0]
    assert batch.received_ns[0] > 0


@pytest.mark.parametrize(("code", "asked"), [(errno.ENOSPC, True), (errno.EACCES, False)])
def test_stored_flows_make_room_for_the_journal_only_when_the_disk_is_full(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, code: int, asked: bool
) -> None:
    wanted: list[int] = []
    receiver = Receiver(lambda needed: wanted.append(needed) or 0)
    original = journal.open_block

    def failing() -> Block | None:
        if receiver.stalls == 0:
            raise OSError(code, os.strerror(code))
        return original()

    monkeypatch.setattr(journal, "open_block", failing)
    port = free_port()
    (sock,) = open_group(Endpoint("udp", "127.0.0.1", port), 1, 1 << 20)
    receiver.start()
    with sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        intake = Intake("test", sock, journal)
        receiver.add([intake], [])
        sender.sendto(b"x", ("127.0.0.1", port))
        wait_for(lambda: intake.datagrams == 1)
        receiver.stop()
    assert bool(wanted) == asked


def proxy_header(source: str, port: int) -> bytes:
    ip = ipaddress.ip_address(source)
    family = 0x11 if ip.version == 4 else 0x21
    body = ip.packed * 2 + struct.pack(">HH", port, 4739)
    body += b"\3\0\2ab"
    return tcp.PROXY_SIGNATURE + struct.pack(">BBH", 0x21, family, len(body)) + body


@pytest.mark.parametrize("stream", [True], indirect=True)
@pytest.mark.parametrize("source", ["192.0.2.7", "2001:db8::7"])
def test_the_exporters_address_comes_from_the_proxy_header(
    stream: StreamIntake, journal: Journal, source: str
) -> None:
    with socket.create_connection(stream.sock.getsockname()) as exporter:
        header = proxy_header(source, 40000)
        exporter.sendall(header[:20])
        time.sleep(0.02)
        exporter.sendall(header[20:] + message(64, 0))
        wait_for(lambda: stream.datagrams == 1)
    batch = journal.read(10)
    assert batch is not None
    assert batch.address[0].tobytes() == tcp.packed(source)
    assert int(batch.port[0]) == 40000


@pytest.mark.parametrize("stream", [True], indirect=True)
def test_a_stream_without_the_promised_proxy_header_is_ended(stream: StreamIntake) -> None:
    with socket.create_connection(stream.sock.getsockname()) as exporter:
        exporter.sendall(message(64, 0))
        wait_for(lambda: stream.framing_errors == 1)


def test_descriptors_go_to_the_service_manager_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with manager, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        assert systemd.store("udp-2055", sock)
        text, fds, _, _ = socket.recv_fds(manager, 1024, 4)
        assert text == b"FDSTORE=1\nFDNAME=udp-2055"
        with socket.socket(fileno=fds[0]) as copy:
            assert copy.getsockname() == sock.getsockname()


@pytest.mark.parametrize("path", ["{}/nobody", "@tandem-test-nobody", "vsock:2:9999"])
def test_a_service_manager_that_does_not_hear_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", path.format(tmp_path))
    assert not systemd.notify("READY=1")


def test_an_abstract_socket_of_the_service_manager_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"tandem-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        assert systemd.notify("READY=1", "STATUS=x")
        assert manager.recv(100) == b"READY=1\nSTATUS=x"


def sender_to(index: int, sockets: int, port: int) -> socket.socket:
    """A socket of an exporter that the steering sends to ``index``."""
    for i in range(1, 255):
        address = ipaddress.ip_address(f"127.3.3.{i}")
        if steer.index_of(address.packed, sockets) == index:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((str(address), 0))
            sock.connect(("127.0.0.1", port))
            return sock
    raise AssertionError("no such address")


def heard(group: list[socket.socket], port: int) -> list[int]:
    """For the exporters of each index: which socket of the group gets their datagrams."""
    found = []
    for index in range(len(group)):
        with sender_to(index, len(group), port) as sender:
            sender.send(b"x")
        for k, sock in enumerate(group):
            try:
                sock.recv(10)
            except BlockingIOError:
                continue
            found.append(k)
    return found


@pytest.mark.parametrize("shards", [2, 4, 7])
def test_sockets_that_were_kept_stay_with_their_shards_when_their_number_changes(
    shards: int,
) -> None:
    endpoint = Endpoint("udp", "127.0.0.1", free_port())
    before = open_group(endpoint, 4, 1 << 16)
    names = [(f"x.{k}", sock) for k, sock in reversed(list(enumerate(before)))]
    kept = systemd.numbered(names)["x"]
    group = complete_group(endpoint, kept, shards, 1 << 16)
    assert group[: min(shards, 4)] == before[: min(shards, 4)]
    assert heard(group, endpoint.port) == list(range(shards))
    for sock in group:
        sock.close()


def test_with_a_socket_missing_among_those_kept_every_exporter_is_still_heard() -> None:
    endpoint = Endpoint("udp", "127.0.0.1", free_port())
    kept = dict(enumerate(open_group(endpoint, 4, 1 << 16)))
    kept.pop(1).close()
    group = complete_group(endpoint, kept, 4, 1 << 16)
    assert sorted(heard(group, endpoint.port)) == [0, 1, 2, 3]
    for sock in group:
        sock.close()


def test_no_socket_that_is_handed_over_is_forgotten() -> None:
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        assert systemd.numbered([("x", a), ("x", b), ("x.1", c)]) == {"x": {0: a, 1: b, 2: c}}


def test_without_a_service_manager_notification_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify("READY=1")


def listening(*listeners: dict[str, object]) -> Config:
    config = Config.model_validate(
        {"listener": list(listeners), "receive": {"shards": 4, "receive_buffer": 1 << 20}}
    )
    return config


def waiting(listeners: Listeners, name: str) -> int:
    """How many datagrams are taken out of the sockets of a listener."""
    count = 0
    for sock in listeners.groups[name]:
        while True:
            try:
                sock.recv(100)
            except BlockingIOError:
                break
            count += 1
    return count


def test_a_listener_that_leaves_keeps_what_it_has_and_leaves_the_rest_to_others() -> None:
    port = free_port()
    name, wide = f"udp://127.0.0.1:{port}", f"udp://[::]:{port}"
    listeners = Listeners()
    listeners.add(listening({"address": "127.0.0.1", "port": port}))
    senders = []
    for i in range(8):
        senders.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        senders[-1].bind((f"127.9.{i}.1", 0))

    def send() -> None:
        for sender in senders:
            sender.sendto(b"x", ("127.0.0.1", port))

    send()
    listeners.add(listening({"address": "::", "port": port}))
    send()
    listeners.leave(name)
    assert listeners.leaving == {name}
    assert not listeners.drained()
    send()
    assert waiting(listeners, name) == 16
    assert listeners.drained()
    assert waiting(listeners, wide) == 8
    listeners.close(name)
    send()
    assert waiting(listeners, wide) == 8
    assert listeners.endpoints.keys() == listeners.groups.keys() == {wide}
    assert not listeners.leaving
    listeners.close(wide)
    for sender in senders:
        sender.close()


@pytest.mark.parametrize(
    ("bound", "to"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "127.0.0.1"),
        ("::", "::1"),
        ("::1", "::1"),
    ],
)
def test_a_secluded_socket_hears_nobody(bound: str, to: str) -> None:
    port = free_port()
    group = open_group(Endpoint("udp", bound, port), 2, 1 << 16)
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"before", (to, port))
        sockets.seclude(group)
        for _ in range(3):
            sender.sendto(b"after", (to, port))
    heard = []
    for sock in group:
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(sock.recv(10))
        sock.close()
    assert heard == [b"before"]


def test_a_listener_that_cannot_be_opened_leaves_all_as_it_was() -> None:
    port, kept = free_port(), free_port()
    listeners = Listeners()
    handed = {
        f"udp-127_0_0_1-{kept}": dict(
            enumerate(open_group(Endpoint("udp", "127.0.0.1", kept), 4, 1 << 16))
        )
    }
    before = list(handed[f"udp-127_0_0_1-{kept}"].values())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        taken = other.getsockname()[1]
        local = [{"address": "127.0.0.1", "port": p} for p in (kept, port, taken)]
        with pytest.raises(ListenError, match=f"{taken}: Address already in use; another program"):
            listeners.add(listening(*local), handed)
    assert not listeners.endpoints
    assert not listeners.groups
    # those of the service manager are not lost with it
    listeners.add(listening(local[0]), handed)
    assert listeners.groups[f"udp://127.0.0.1:{kept}"] == before
    assert not handed
    listeners.close(f"udp://127.0.0.1:{kept}")


def test_a_tcp_listener_may_change_its_mind_about_the_proxy() -> None:
    port = free_port(socket.SOCK_STREAM)
    tcp_listener = {"transport": "tcp", "address": "127.0.0.1", "port": port}
    listeners = Listeners()
    listeners.add(listening(tcp_listener))
    (name,) = listeners.streams
    sock, proxied = listeners.streams[name]
    listeners.add(listening({**tcp_listener, "proxy_protocol": True}))
    assert (proxied, listeners.streams[name]) == (False, (sock, True))
    listeners.close(name)
    assert not listeners.streams
