"""The journal keeps what the kernel handed over, whatever happens to the process."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from appliance.batch import IPV4_MAPPED_PREFIX
from appliance.journal import block as blocks
from appliance.journal import journal as journals
from appliance.journal.block import Block, BlockError, Geometry
from appliance.journal.journal import Journal
from appliance.receive.recvmmsg import receive
from appliance.receive.sockets import Endpoint, open_group

SMALL = Geometry(slots=64, areas=16)


@pytest.fixture
def pair() -> tuple[socket.socket, socket.socket]:
    """A receiving socket with the collector's options, and one that sends to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    receiver = open_group(Endpoint("udp", "127.0.0.1", port), 1, 1 << 20)[0]
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(("127.0.0.1", port))
    yield receiver, sender
    receiver.close()
    sender.close()


def journal_of(path: Path, max_bytes: int = 1 << 26, geometry: Geometry = SMALL) -> Journal:
    journal = Journal(path, max_bytes, geometry)
    journal.recover(0)
    return journal


def take(journal: Journal, receiver: socket.socket) -> int:
    total = 0
    while (block := journal.open_block()) is not None:
        room = block.room()
        taken = receive(receiver.fileno(), block.message_address(block.count), room)
        if taken:
            journal.received(block, taken)
        total += taken
        if taken < room:
            break
    return total


def payloads(journal: Journal) -> list[bytes]:
    result = []
    while (batch := journal.read(1000)) is not None:
        result += [batch.payload(i) for i in range(len(batch))]
    return result


def test_datagrams_come_out_as_they_came_in(pair, tmp_path):
    receiver, sender = pair
    sent = [b"", b"a", bytes(range(256)) * 8, os.urandom(2048), os.urandom(2049)]
    before = time.time_ns()
    for payload in sent:
        sender.send(payload)
    journal = journal_of(tmp_path)
    assert take(journal, receiver) == len(sent)
    batch = journal.read(100)
    assert [batch.payload(i) for i in range(len(batch))] == sent
    assert batch.address.tobytes() == (IPV4_MAPPED_PREFIX + bytes([127, 0, 0, 1])) * len(sent)
    assert set(batch.port.tolist()) == {sender.getsockname()[1]}
    assert (batch.received_ns > before - 1_000_000_000).all()
    assert (batch.received_ns <= time.time_ns()).all()


def test_the_longest_datagrams_are_whole_and_do_not_disturb_each_other(pair, tmp_path):
    receiver, sender = pair
    journal = journal_of(tmp_path, max_bytes=1 << 28)
    sent, got = [], []
    for _ in range(30):
        some = [os.urandom(n) for n in (65507, 10, 30000, 1400, 2049)]
        for payload in some:
            sender.send(payload)
        sent += some
        take(journal, receiver)
        got += payloads(journal)
        journal.trim(journal.read_position)
    assert got == sent


def test_a_datagram_of_an_ipv6_exporter_keeps_its_address(tmp_path):
    receiver = open_group(Endpoint("udp", "::", 0), 1, 1 << 20)[0]
    port = receiver.getsockname()[1]
    with receiver, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four:
            six.sendto(b"six", ("::1", port))
            four.sendto(b"four", ("127.0.0.1", port))
        journal = journal_of(tmp_path)
        take(journal, receiver)
        batch = journal.read(10)
    assert batch.address[0].tobytes() == bytes(15) + b"\1"
    assert batch.address[1].tobytes() == IPV4_MAPPED_PREFIX + bytes([127, 0, 0, 1])


def test_a_kill_between_the_kernel_and_the_accounting_loses_nothing(pair, tmp_path):
    receiver, sender = pair
    sent = [f"datagram {i}".encode() for i in range(40)] + [os.urandom(5000)]
    for payload in sent:
        sender.send(payload)
    pid = os.fork()
    if pid == 0:
        journal = journal_of(tmp_path)
        block = journal.open_block()
        for _ in range(4):
            receive(receiver.fileno(), block.message_address(block.count), 10)
            block.count += 10
        # what this last call takes is never accounted for
        receive(receiver.fileno(), block.message_address(40), 10)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    journal = Journal(tmp_path, 1 << 26, SMALL)
    assert journal.recover(0).datagrams == len(sent)
    assert payloads(journal) == sent


def test_recovery_begins_at_the_position_that_is_stored(pair, tmp_path):
    receiver, sender = pair
    journal = journal_of(tmp_path)
    for i in range(200):
        sender.send(str(i).encode())
        if i % 50 == 49:
            take(journal, receiver)
    journal.close()
    again = Journal(tmp_path, 1 << 26, SMALL)
    assert again.recover(150).datagrams == 50
    assert payloads(again) == [str(i).encode() for i in range(150, 200)]
    sender.send(b"next")
    take(again, receiver)
    assert payloads(again) == [b"next"]
    assert again.position == 201


def test_stored_blocks_are_used_again_and_their_old_content_is_gone(pair, tmp_path):
    receiver, sender = pair
    journal = journal_of(tmp_path)
    for round_ in range(20):
        for i in range(64):
            sender.send(f"{round_} {i}".encode())
        take(journal, receiver)
        assert len(payloads(journal)) == 64
        journal.trim(journal.read_position)
    assert len(list(tmp_path.glob("*.block"))) <= 3
    journal.close()
    again = Journal(tmp_path, 1 << 26, SMALL)
    assert again.recover(20 * 64).datagrams == 0
    assert payloads(again) == []


def test_a_block_of_the_process_before_is_used_again_with_the_addresses_of_this_one(pair, tmp_path):
    receiver, sender = pair
    pid = os.fork()
    if pid == 0:
        away = [mmap.mmap(-1, SMALL.size) for _ in range(8)]  # other addresses than the parent's
        journal = journal_of(tmp_path)
        for i in range(100):
            sender.send(str(i).encode())
        take(journal, receiver)
        os._exit(len(away) - 8)
    assert os.waitpid(pid, 0)[1] == 0
    again = Journal(tmp_path, 1 << 26, SMALL)
    assert again.recover(0).datagrams == 100
    assert len(payloads(again)) == 100
    again.trim(again.read_position)
    sent = [f"next {i}".encode() for i in range(200)]
    for payload in sent:
        sender.send(payload)
    assert take(again, receiver) == len(sent)
    assert payloads(again) == sent


def test_a_full_journal_takes_no_more_and_loses_nothing_it_has(pair, tmp_path):
    receiver, sender = pair
    journal = journal_of(tmp_path, max_bytes=2 * SMALL.size)
    for i in range(200):
        sender.send(str(i).encode())
    assert take(journal, receiver) == 128
    assert journal.open_block() is None
    first = payloads(journal)
    journal.trim(journal.read_position)
    assert take(journal, receiver) == 72
    assert first + payloads(journal) == [str(i).encode() for i in range(200)]


def test_a_block_cut_short_is_set_aside_and_the_others_are_read(pair, tmp_path):
    receiver, sender = pair
    journal = journal_of(tmp_path)
    for i in range(100):
        sender.send(str(i).encode())
    take(journal, receiver)
    journal.close()
    _, second = sorted(tmp_path.glob("*.block"))
    os.truncate(second, SMALL.size // 2)
    again = Journal(tmp_path, 1 << 26, SMALL)
    found = again.recover(0)
    assert (found.datagrams, found.unreadable) == (64, 1)
    assert payloads(again) == [str(i).encode() for i in range(64)]
    assert second.with_suffix(".unreadable").exists()


def test_pages_lost_with_the_machine_end_the_block_and_are_counted(pair, tmp_path, monkeypatch):
    receiver, sender = pair
    journal = journal_of(tmp_path)
    for i in range(20):
        sender.send(f"datagram {i}".encode())
    take(journal, receiver)
    block = journal.open_block()
    start = SMALL.payload + 12 * blocks.SLOT_BYTES
    block.buffer[start : start + 2 * blocks.SLOT_BYTES] = 0
    journal.close()
    again = Journal(tmp_path, 1 << 26, SMALL)
    monkeypatch.setattr(blocks, "boot_id", lambda: b"x" * 36)
    found = again.recover(0)
    assert (found.datagrams, found.torn) == (12, 8)
    assert payloads(again) == [f"datagram {i}".encode() for i in range(12)]
    assert again.pending == 0
    sender.send(b"after")
    take(again, receiver)
    assert payloads(again) == [b"after"]
    assert again.read_position == 21


def test_a_block_whose_beginning_was_interrupted_holds_nothing(tmp_path):
    block = Block.create(tmp_path / "000000.block", SMALL)
    block.begin(7, 1000)
    block._mapped[:8] = bytes(8)
    block.close()
    journal = Journal(tmp_path, 1 << 26, SMALL)
    found = journal.recover(0)
    assert (found.datagrams, found.unreadable) == (0, 0)
    assert not list(tmp_path.iterdir())


def test_blocks_of_another_size_are_read_and_then_replaced(pair, tmp_path):
    receiver, sender = pair
    journal = journal_of(tmp_path)
    sent = [f"before {i}".encode() for i in range(100)]
    for payload in sent:
        sender.send(payload)
    take(journal, receiver)
    journal.close()
    (tmp_path / "copy of 000000.block").write_bytes((tmp_path / "000000.block").read_bytes())
    larger = Geometry(slots=128, areas=32)
    again = Journal(tmp_path, 1 << 26, larger)
    assert again.recover(0).datagrams == 100
    for i in range(200):
        sender.send(f"after {i}".encode())
        sent.append(f"after {i}".encode())
    take(again, receiver)
    assert payloads(again) == sent
    again.trim(again.read_position)
    sizes = {p.stat().st_size for p in tmp_path.glob("[0-9]*.block")}
    assert sizes == {larger.size}


def test_a_changed_header_fails_its_checksum(tmp_path):
    path = tmp_path / "000000.block"
    block = Block.create(path, SMALL)
    block.begin(7, 1000)
    block._mapped[24] ^= 1
    block.close()
    with pytest.raises(BlockError, match="checksum"):
        Block.open(path)


def test_the_batch_of_an_empty_block_is_empty(tmp_path):
    block = Block.create(tmp_path / "000000.block", SMALL)
    block.begin(1, 0)
    batch = block.batch(0, 0)
    assert len(batch) == 0
    assert batch.address.shape == (0, 16)
    assert np.asarray(batch.length).dtype == np.int64


def test_a_batch_is_bounded_by_its_bytes(pair, tmp_path, monkeypatch):
    receiver, sender = pair
    monkeypatch.setattr(journals, "MAX_READ_BYTES", 1000)
    journal = journal_of(tmp_path)
    sent = [bytes([n]) * 400 for n in range(5)] + [bytes(1500), b"last"]
    for payload in sent:
        sender.send(payload)
    take(journal, receiver)
    lengths = []
    while (batch := journal.read(100)) is not None:
        lengths.append(batch.length.tolist())
    assert lengths == [[400, 400], [400, 400], [400], [1500], [4]]


def test_blocks_kept_ready_are_given_up_for_a_full_disk(pair, tmp_path):
    receiver, sender = pair
    journal = journal_of(tmp_path)
    for _ in range(3):
        for i in range(64):
            sender.send(f"{i}".encode())
        take(journal, receiver)
    assert len(payloads(journal)) == 3 * 64
    journal.trim(journal.read_position)
    assert journal.release() == 3 * SMALL.size
    assert len(list(tmp_path.glob("*.block"))) == 1  # the one to receive into
    sender.send(b"next")
    take(journal, receiver)
    assert payloads(journal) == [b"next"]


@pytest.mark.parametrize("budget", [1 << 22, 16 << 20, 64 << 20, 1 << 30])
def test_a_journal_of_four_blocks_or_more_fits_its_bytes(tmp_path, budget):
    journal = Journal(tmp_path, budget)
    assert journal.max_blocks >= 4 or budget < 4 * Geometry(512, 8).size
    assert journal.max_blocks * journal.geometry.size <= max(budget, 2 * Geometry(512, 8).size)


def test_two_long_datagrams_never_share_an_overflow_area(pair, tmp_path):
    receiver, sender = pair
    journal = journal_of(tmp_path)
    sent = [os.urandom(9000) if i % SMALL.areas == 3 else bytes([i]) * 20 for i in range(60)]
    for payload in sent:
        sender.send(payload)
    assert take(journal, receiver) == 60
    assert payloads(journal) == sent


def test_a_block_used_again_has_forgotten_its_tcp_sessions(pair, tmp_path):
    receiver, sender = pair
    journal = journal_of(tmp_path)
    block = journal.open_block()
    for _ in range(2):
        block.begin(block.number + 1, 0)
        block.sessions[:] = 9
        block.control["drops_type"][:] = blocks.SO_RXQ_OVFL
    block.begin(block.number + 1, 0)
    sender.send(b"udp")
    take(journal, receiver)
    batch = journal.read(10)
    assert batch.session.tolist() == [0]
    assert block.control["drops_type"][0] != blocks.SO_RXQ_OVFL
