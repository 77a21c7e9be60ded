"""Supervisor, worker and children, each by itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import pytest

from appliance import children
from appliance.children import RESTART_SECONDS, Child, Restarts, check_writable, fork, only_one
from appliance.pool import Pool, leftover
from appliance.receive.listeners import Listeners
from appliance.receive.sockets import ListenError
from appliance.worker import Worker
from tests.shard_tools import config_of, deliver, let_go, numbers, open_shard, settle
from tests.unit.test_shard import v5


def worker_of(config) -> tuple[Worker, socket.socket]:
    ours, theirs = socket.socketpair()
    worker = Worker(config, Listeners(), theirs)
    worker.receiver.start()
    return worker, ours


def test_a_shard_that_is_none_any_more_is_brought_to_its_end_before_it_goes(
    tmp_path: Path,
) -> None:
    config = config_of(tmp_path)
    for number in (0, 5):
        shard = open_shard(config, number)
        deliver(shard, [v5(number * 100 + i, 1) for i in range(50)])
        settle(shard)
        deliver(shard, [v5(number * 100 + i, 1) for i in range(50, 70)])
        let_go(shard)
    assert leftover(tmp_path, 1) == {5}
    assert leftover(tmp_path, 6) == set()
    worker, supervisor = worker_of(config)
    worker._obey({"serve": [0, 5]})
    assert json.loads(supervisor.recv(1000)) == {"drained": [5]}
    assert set(worker.shards) == {0}
    worker.receiver.stop()
    worker.shards[0].close()
    assert numbers(config) == Counter([*range(70), *range(500, 570)])
    assert leftover(tmp_path, 1) == set()
    again = open_shard(config, 5)
    assert again.report()["balanced"]
    assert again.journal.position == 70
    let_go(again)


def test_an_order_that_comes_twice_does_no_harm(tmp_path: Path) -> None:
    worker, supervisor = worker_of(config_of(tmp_path))
    worker._obey({"serve": [0]})
    worker._obey({"serve": [0]})
    worker._obey({"release": [0]})
    worker._obey({"release": [0]})
    lines = supervisor.recv(1000).splitlines()
    assert [json.loads(line) for line in lines] == [{"released": [0]}, {"released": []}]
    worker.receiver.stop()


def test_a_child_that_always_ends_at_once_is_started_less_and_less_often() -> None:
    restarts = Restarts()
    waits = []
    for _ in range(7):
        begun = time.monotonic()
        restarts.again("maintenance", Child(1, None), 256, lambda: None)
        waits.append(round(restarts.due[-1][0] - begun, 1))
    assert waits == [*RESTART_SECONDS, RESTART_SECONDS[-1], RESTART_SECONDS[-1]]
    # another kind, and one that was told to end, wait for nothing
    begun = time.monotonic()
    restarts.again("worker", Child(1, None), 9, lambda: None)
    restarts.again("maintenance", Child(1, None), 0, lambda: None)
    assert all(due - begun < 0.1 for due, _ in restarts.due[-2:])


def test_a_worker_that_dies_with_shards_on_their_way_blocks_no_later_move(tmp_path: Path) -> None:
    restarts = Restarts()
    pool = Pool(config_of(tmp_path), lambda control: None, restarts)
    source, target = Child(1, None, shards={1, 2}), Child(2, None)
    pool.workers = [source, target]
    pool.moving = {2: target}
    pool.ended(source.pid, 9)
    assert pool.moving == {}
    assert len(restarts.due) == 1


def test_a_child_ends_with_its_parent() -> None:
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        child = fork(lambda: time.sleep(60), None)
        os.write(write, f"{child.pid}\n".encode())
        time.sleep(60)
    pid = int(os.read(read, 100))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    deadline = time.monotonic() + 5
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_data_directory_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ListenError, match=r"cannot use .*file.*set another data_dir"):
        check_writable(tmp_path / "file" / "data")
    data = tmp_path / "data"
    check_writable(data)
    (data / "shards" / "3").mkdir(parents=True)
    lock = data / "shards" / "3" / "lock"
    lock.touch()
    check_writable(data)
    monkeypatch.setattr(os, "access", lambda path, mode: path != lock)
    with pytest.raises(ListenError, match=r"shards/3/lock cannot be written by user .*chown"):
        check_writable(data)


def test_a_second_collector_is_refused_but_one_that_is_about_to_end_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "LOCK_SECONDS", 0.2)
    refused = pytest.raises(ListenError, match="another collector")
    with only_one(tmp_path), refused, only_one(tmp_path):
        pass
    monkeypatch.setattr(children, "LOCK_SECONDS", 20.0)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with only_one(tmp_path):
            os.write(write, b"x")
            time.sleep(0.3)
            os._exit(0)
    os.read(read, 1)
    with only_one(tmp_path):
        pass
    os.waitpid(pid, 0)
