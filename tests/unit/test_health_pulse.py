"""The pulse and those who read it; canaries in the journal, before the decoder, in the ledger."""

from __future__ import annotations

import errno
import ipaddress
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from appliance.batch import DatagramBatch
from appliance.children import fork
from appliance.health import canary
from appliance.health.probe import Sender, Watch, source_addresses
from appliance.health.pulse import Pulse, PulseError
from appliance.health.recognise import Recogniser
from appliance.health.report import TrackFile
from appliance.journal.journal import Journal
from appliance.ledger.ledger import Ledger
from appliance.ledger.sequence import to_ipc
from appliance.receive.receiver import Intake, Receiver
from appliance.receive.sockets import Endpoint, open_group
from appliance.receive.steer import index_of
from appliance.shard import Shard
from tests.shard_tools import NOW, config_of, deliver, let_go, open_shard

SECOND = 1_000_000_000
PERIOD = 0.1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pulse"


class Server:
    """A process that serves the shards of a pulse until it is ended."""

    def __init__(self, pulse: Pulse) -> None:
        ready, tell = os.pipe()

        def body() -> None:
            for row in pulse.rows:
                row.hold()
            os.write(tell, b"x")
            signal.pause()

        self.pid = fork(body, None).pid
        os.read(ready, 1)
        os.close(ready)
        os.close(tell)

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


NAMES = ["udp://127.0.0.1:1", "udp://[::]:2"]


def made(path: Path) -> Pulse:
    pulse = Pulse.create(path, shards=2)
    pulse.admit(NAMES)
    pulse.show(NAMES)
    return pulse


@pytest.fixture
def pulse(path: Path) -> Pulse:
    return made(path)


@pytest.fixture
def server(pulse: Pulse) -> Iterator[Server]:
    server = Server(pulse)
    yield server
    server.end()


def test_what_a_worker_writes_is_seen_and_who_serves_is_known(pulse: Pulse, path: Path) -> None:
    seen = Pulse.open(path, 2).rows
    assert [row.server() for row in seen] == [0, 0]
    server = Server(pulse)
    assert [row.server() for row in seen] == [server.pid, server.pid]
    pulse.rows[1].received(1, 1234, 5678)
    pulse.rows[1].received(1, 1235, 0)
    assert (seen[1].datagrams(1), seen[1].newest(1)) == (1235, 5678)
    assert (seen[0].datagrams(1), seen[1].newest(0)) == (0, 0)
    server.end()
    assert [row.server() for row in seen] == [0, 0]


def test_a_problem_lasts_until_it_is_taken_back(pulse: Pulse, path: Path) -> None:
    row, seen = pulse.rows[0], Pulse.open(path, 2).rows[0]
    assert seen.problem() is None
    row.flush_problem(errno.ENOSPC)
    first = seen.problem()
    assert first is not None
    assert (first.errno, first.where) == (errno.ENOSPC, "store")
    row.flush_problem(errno.ENOSPC)
    assert seen.problem() == first
    row.flush_problem(0)
    assert seen.problem() is None
    row.flush_problem(errno.ENOSPC)
    assert seen.problem() != first
    row.receiver_problem(errno.EDQUOT)
    assert seen.problem().where == "journal"  # type: ignore[union-attr]
    row.flush_problem(0)
    row.receiver_problem(errno.ENOBUFS)
    assert seen.problem() is None


def test_a_pulse_of_another_shape_is_refused(pulse: Pulse, path: Path) -> None:
    with pytest.raises(PulseError, match="another configuration"):
        Pulse.open(path, 4)
    with pytest.raises(PulseError, match="No such file"):
        Pulse.open(path.with_name("other"), 2)


class Looks:
    """A watch whose clock the test turns."""

    def __init__(self, path: Path) -> None:
        self.real = 100 * SECOND
        self.watch = Watch(path, 2, PERIOD, self.real)
        self.turn = 0

    def round(self, pulse: Pulse, answer: set[tuple[int, int]], rounds: int = 1) -> None:
        """Rounds in which the canaries to these (shard, listener) are answered."""
        for _ in range(rounds):
            number = self.watch.now
            for shard in range(2):
                if (shard, self.turn) in answer:
                    pulse.rows[shard].received(self.turn, 0, number)
            self.turn = 1 - self.turn
            self.pass_time(PERIOD)

    def pass_time(self, seconds: float) -> None:
        self.real += int(seconds * 1e9)
        self.watch.tick(self.real)
        self.sights = self.watch.look()


EVERY = {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_answers_in_time_are_never_overdue(pulse: Pulse, path: Path, server: Server) -> None:
    looks = Looks(path)
    looks.pass_time(PERIOD)
    assert [s.proven for s in looks.sights] == [False, False]
    for _ in range(20):
        looks.round(pulse, EVERY)
        assert [s.overdue for s in looks.sights] == [0.0, 0.0]
    assert all(s.served and s.known and s.proven for s in looks.sights)


def test_a_shard_that_stops_answering_is_overdue_from_then_on(
    pulse: Pulse, path: Path, server: Server
) -> None:
    looks = Looks(path)
    looks.round(pulse, EVERY, 10)
    looks.round(pulse, {(0, 0), (0, 1)}, 5)
    assert [s.overdue for s in looks.sights] == [0.0, pytest.approx(0.5)]


def test_one_listener_that_is_deaf_is_overdue_after_its_turns(
    pulse: Pulse, path: Path, server: Server
) -> None:
    looks = Looks(path)
    looks.round(pulse, EVERY, 10)
    looks.round(pulse, EVERY - {(1, 1)}, 8)
    assert looks.sights[1].overdue < 0.5
    looks.round(pulse, EVERY - {(1, 1)}, 7)
    assert looks.sights[0].overdue == 0.0
    assert looks.sights[1].overdue > 0.5


def test_datagrams_that_arrive_are_as_good_as_canaries(
    pulse: Pulse, path: Path, server: Server
) -> None:
    looks = Looks(path)
    looks.round(pulse, EVERY, 10)
    for n in range(20):
        for row in pulse.rows:
            row.received(0, n, 0)
            row.received(1, n, 0)
        looks.round(pulse, set())
    assert [s.overdue for s in looks.sights] == [0.0, 0.0]


def test_time_in_which_nobody_watched_does_not_count(
    pulse: Pulse, path: Path, server: Server
) -> None:
    looks = Looks(path)
    looks.round(pulse, EVERY, 10)
    looks.pass_time(60.0)
    assert all(s.overdue <= 2 * PERIOD for s in looks.sights)
    looks.round(pulse, EVERY, 3)
    assert all(s.overdue == 0.0 for s in looks.sights)


def test_a_new_collector_has_to_answer_anew(pulse: Pulse, path: Path) -> None:
    server = Server(pulse)
    looks = Looks(path)
    looks.round(pulse, EVERY, 10)
    server.end()
    looks.round(pulse, set(), 10)
    assert all(not s.served and s.known for s in looks.sights)
    assert looks.sights[0].unproven == pytest.approx(1.1)
    pulse = made(path)
    server = Server(pulse)
    looks.round(pulse, set(), 3)
    assert all(s.served and not s.proven for s in looks.sights)
    assert looks.sights[0].overdue == pytest.approx(0.1)
    assert looks.sights[0].unproven == pytest.approx(1.4)
    looks.round(pulse, EVERY, 1)
    assert all(s.proven for s in looks.sights)
    server.end()


def test_a_listener_keeps_its_column_whichever_others_come_and_go(pulse: Pulse, path: Path) -> None:
    seen = Pulse.open(path, 2)
    assert seen.shown() == dict(enumerate(NAMES))
    revision = seen.revision
    pulse.admit([NAMES[1], "udp://127.0.0.1:3", "udp://127.0.0.1:4"])
    assert seen.shown() == dict(enumerate(NAMES))
    pulse.show([NAMES[1], "udp://127.0.0.1:3"])
    assert seen.shown() == {0: "udp://127.0.0.1:3", 1: NAMES[1]}
    assert seen.revision > revision
    assert [str(Endpoint.parse(name)) for name in NAMES] == NAMES
    pulse.admit(f"udp://127.0.0.1:{port}" for port in range(1, 70))
    assert len(set(pulse.columns.values())) == len(pulse.columns) == 64


def test_a_listener_that_is_no_longer_shown_convicts_nobody_and_a_new_one_is_asked(
    pulse: Pulse, path: Path, server: Server
) -> None:
    looks = Looks(path)
    looks.round(pulse, EVERY, 10)
    third = "udp://127.0.0.1:3"
    pulse.admit([NAMES[1], third])
    pulse.show([NAMES[1], third])
    looks.pass_time(0)
    assert looks.watch.listeners == {0: third, 1: NAMES[1]}
    assert not any(s.overdue for s in looks.sights)
    looks.round(pulse, {(0, 1), (1, 1), (0, 0)}, 15)
    assert looks.sights[0].overdue == 0.0
    assert looks.sights[1].overdue > 0.5
    pulse.show([NAMES[1]])
    looks.pass_time(0)
    assert all(s.overdue < 0.3 for s in looks.sights)


@pytest.mark.parametrize("shards", [1, 4, 64])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_every_shard_has_an_address_that_is_steered_to_it(
    family: socket.AddressFamily, shards: int
) -> None:
    found = source_addresses(family, shards)
    assert [index_of(ipaddress.ip_address(a).packed, shards) for a in found] == list(range(shards))


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::", "::1"])
def test_canaries_reach_every_socket(address: str) -> None:
    groups = []
    endpoints = []
    for _ in range(2):
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::", 0))
            endpoints.append(Endpoint("udp", address, probe.getsockname()[1]))
        groups.append(open_group(endpoints[-1], 4, 1 << 20))
    sender = Sender(endpoints, 4)
    for payload in (b"first", b"second"):
        sender.send(payload)
    time.sleep(0.05)
    assert [[s.recv(100) for s in group] for group in groups] == [[b"first"] * 4, [b"second"] * 4]
    sender.close()
    for sock in [s for group in groups for s in group]:
        sock.close()


def test_the_track_file_always_has_a_number(tmp_path: Path) -> None:
    track = TrackFile(tmp_path / "health")
    assert track.read() is None
    seen: set[bytes] = set()
    ended = threading.Event()
    track.write(-150)

    def look() -> None:
        while not ended.is_set():
            seen.add((tmp_path / "health").read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    inode = (tmp_path / "health").stat().st_ino
    for _ in range(300):
        for value in (0, -50, -150):
            track.write(value)
            assert track.read() == value
    ended.set()
    reader.join()
    assert seen <= {b"0   \n", b"-50 \n", b"-150\n"}
    assert (tmp_path / "health").stat().st_ino == inode


def test_a_track_file_that_somebody_else_made_is_taken_over(tmp_path: Path) -> None:
    track = TrackFile(tmp_path / "health")
    for content in ("0", "-150 and more of it\n", ""):
        (tmp_path / "health").write_text(content)
        track.write(-50)
        assert (tmp_path / "health").read_text() == "-50 \n"


def test_a_key_is_made_once_and_is_no_secret_to_the_group_only(tmp_path: Path) -> None:
    assert canary.read_key(tmp_path) is None
    key = canary.make_key(tmp_path)
    assert canary.make_key(tmp_path) == canary.read_key(tmp_path) == key
    assert (tmp_path / "canary-key").stat().st_mode & 0o777 == 0o640
    (tmp_path / "canary-key").write_bytes(key[:5])
    assert canary.read_key(tmp_path) is None
    assert canary.make_key(tmp_path) != key


KEY = bytes(range(16))


def test_only_canaries_of_this_key_are_taken_out_of_a_batch() -> None:
    mine, forged = canary.payload(KEY, 7), canary.payload(bytes(16), 8)
    other = bytes(canary.LENGTH)
    batch = DatagramBatch.from_payloads([mine, b"a", forged, mine, other, b"bc"])
    rest, found = Recogniser(KEY).without(batch)
    assert found == 2
    assert [rest.payload(i) for i in range(len(rest))] == [b"a", forged, other, b"bc"]


def test_a_receiver_says_what_it_has_in_the_journal(tmp_path: Path, pulse: Pulse) -> None:
    journal = Journal(tmp_path / "journal", 1 << 26)
    journal.recover(0)
    receiver = Receiver(recogniser=Recogniser(KEY))
    receiver.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        (group,) = [sock]
        intake = Intake("test", group, journal, pulse.rows[0], 1)
        receiver.add([intake], [])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for payload in (canary.payload(KEY, 41), b"other", canary.payload(KEY, 42),
                            canary.payload(bytes(16), 99)):  # fmt: skip
                sender.sendto(payload, sock.getsockname())
        deadline = time.monotonic() + 5
        while journal.position < 4 or not pulse.rows[0].datagrams(1):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        receiver.stop()
    assert receiver.error is None
    assert (pulse.rows[0].newest(1), pulse.rows[0].datagrams(1)) == (42, 2)
    assert (intake.datagrams, intake.bytes) == (2, len(b"other") + canary.LENGTH)
    journal.close()


def store(shard: Shard) -> None:
    """Decode and flush what is there, whether it is time or not."""
    shard._flushed_at = -math.inf
    shard.step(NOW)
    assert shard.report()["balanced"]


def test_canaries_balance_also_after_a_crash_and_have_no_exporter(tmp_path: Path) -> None:
    config = config_of(tmp_path, allow=["192.0.2.0/24"])
    key = canary.make_key(tmp_path)
    shard = open_shard(config)
    deliver(shard, [canary.payload(key, n) for n in range(5)] + [b"junk"], "127.0.0.7")
    deliver(shard, [b"other"])
    store(shard)
    deliver(shard, [canary.payload(key, n) for n in range(3)])
    let_go(shard)
    shard = open_shard(config)
    assert shard.ledger.canaries == 5
    store(shard)
    assert shard.ledger.canaries == 8
    table = shard.ledger.table(shard.decoder.sources)
    assert sorted(table["exporter"].to_pylist()) == ["127.0.0.7", "192.0.2.1"]
    assert sum(table["datagrams_received"].to_pylist()) == 2
    assert table["datagrams_refused"].to_pylist().count(1) == 1
    shard.close()


def test_a_ledger_of_the_time_before_canaries_can_be_read() -> None:
    ledger = Ledger()
    ledger.add("datagrams_received", 0, 3)
    ledger.canaries = 7
    dumped = ledger.dump()
    size = 8 + int.from_bytes(dumped[:8], "little")
    table = pa.ipc.open_stream(dumped[8:size]).read_all()
    before = to_ipc(table.replace_schema_metadata(None))
    for counts, canaries in ((to_ipc(table), 7), (before, 0)):
        loaded = Ledger()
        loaded.load(len(counts).to_bytes(8, "little") + counts + dumped[size:])
        assert (loaded.total("datagrams_received"), loaded.canaries) == (3, canaries)
