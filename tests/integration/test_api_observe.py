"""What the API looks at, against the real things: the kernel, a FIFO, HAProxy, a process."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from api.observe.addresses import Addresses
from api.observe.haproxy import Adapter
from api.observe.host import disk, host
from api.observe.keepalived import Keepalived
from api.observe.source import Source, Unavailable
from appliance.config import Vip
from tests.integration.cluster import within
from tests.integration.harness import free_port, wait_for

SPACE = "tandem-t-kernel"
VIP = Vip(name="v1", addresses=(ip_address("10.98.0.1"), ip_address("fd98::1")))


async def until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within 5 s: {what}")


def following(run: Callable[[], Awaitable[None]], check: Callable[[], Awaitable[None]]) -> None:
    """Run ``check`` while ``run`` follows."""

    async def both() -> None:
        task = asyncio.ensure_future(run())
        try:
            await check()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(both())


# ── the kernel ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def space() -> Iterator[str]:
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    subprocess.run(["ip", "netns", "del", SPACE], capture_output=True)
    subprocess.run(["ip", "netns", "add", SPACE], check=True)
    link("link", "set", "lo", "up")
    link("link", "add", "name", "va", "up", "type", "veth", "peer", "name", "vb")
    yield SPACE
    subprocess.run(["ip", "netns", "del", SPACE], check=True)


def link(*arguments: str) -> None:
    subprocess.run(["ip", "-n", SPACE, *arguments], check=True)


def test_a_vip_is_held_while_all_its_addresses_are_there_and_not_on_lo(space: str) -> None:
    changes: list[tuple[str, bool, bool]] = []
    addresses = Addresses(
        [VIP], lambda vip, held, _, first: changes.append((vip, held, first)), time.time_ns
    )

    async def check() -> None:
        assert addresses.held("v1") is None
        await until(lambda: addresses.held("v1") is False, "the first look")
        link("addr", "add", "10.98.0.1/32", "dev", "lo")
        link("addr", "add", "fd98::1/128", "dev", "lo")
        link("addr", "add", "10.98.0.1/32", "dev", "va")
        await until(lambda: addresses.partly("v1"), "a part of it")
        assert addresses.held("v1") is False
        begun = time.monotonic()
        link("addr", "add", "fd98::1/128", "dev", "va", "nodad")
        await until(lambda: addresses.held("v1") is True, "all of it")
        assert time.monotonic() - begun < 0.9, "an event, not the period"
        link("addr", "del", "10.98.0.1/32", "dev", "va")
        await until(lambda: addresses.held("v1") is False, "gone")

    with within(space):
        following(addresses.run, check)
    assert changes == [("v1", False, True), ("v1", True, False), ("v1", False, False)]


def test_what_the_kernel_said_long_ago_is_not_known(space: str) -> None:
    now = [time.time_ns()]
    addresses = Addresses([VIP], lambda *_: None, lambda: now[0])

    async def check() -> None:
        await until(lambda: addresses.held("v1") is False, "the first look")

    with within(space):
        following(addresses.run, check)
    now[0] += 6 * 10**9
    assert addresses.held("v1") is None


# ── keepalived ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def keepalived(tmp_path: Path) -> Iterator[Keepalived]:
    os.mkfifo(tmp_path / "notify")
    program = tmp_path / "keepalived"
    shutil.copy("/bin/sleep", program)
    process = subprocess.Popen([program, "100"])
    (tmp_path / "pid").write_text(f"{process.pid}\n")
    yield Keepalived(tmp_path / "notify", tmp_path / "pid", lambda *_: None)
    process.kill()
    process.wait()


def say(path: Path, text: bytes) -> None:
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, text)
    os.close(fd)


def test_keepalived_is_heard_by_whole_lines_whatever_comes_between(
    keepalived: Keepalived, tmp_path: Path
) -> None:
    fifo = tmp_path / "notify"

    async def check() -> None:
        await until(lambda: keepalived.listening, "the FIFO")
        assert keepalived.opinion("v1") is None
        say(fifo, b'INSTANCE "v1-4" MAS')
        say(fifo, b'TER 254\nINSTANCE "v1-6" MASTER 254\nGROUP "v1" MASTER 0\nINSTANCE "v2-4" ')
        await until(lambda: keepalived.opinion("v1") == "MASTER", "master")
        assert keepalived.opinion("v2") is None
        say(fifo, b'BACKUP 254\n\xff\xfe nonsense\n\nGROUP x\nINSTANCE "v1-4" MASTER_RX_LOWER_PRI')
        say(fifo, b' 254\nINSTANCE "v1-4" MASTER_PRIORITY 254\n' + b"x" * 10000 + b"\n")
        await until(lambda: keepalived.lower_priority["v1"] == 1, "the advert")
        assert (keepalived.opinion("v1"), keepalived.opinion("v2")) == ("MASTER", "BACKUP")
        say(fifo, b'INSTANCE "v1-6" FAULT 254\n')
        await until(lambda: keepalived.opinion("v1") == "FAULT", "the worst of both families")
        fifo.unlink()
        await until(lambda: not keepalived.listening, "the FIFO is gone")
        os.mkfifo(fifo)
        await until(lambda: keepalived.listening, "the new FIFO")
        say(fifo, b'INSTANCE "v1-4" BACKUP 254\nINSTANCE "v1-6" BACKUP 254\nGROUP "v1" BACKUP 0\n')
        await until(lambda: keepalived.opinion("v1") == "BACKUP", "heard again")

    following(keepalived.run, check)


def test_a_process_that_is_not_keepalived_does_not_count(
    keepalived: Keepalived, tmp_path: Path
) -> None:
    async def check() -> None:
        await until(lambda: keepalived.up is True, "it runs")
        for text, up in ((f"{os.getpid()}", False), ("x", None), ("999999999", False)):
            (tmp_path / "pid").write_text(text)
            await until(lambda: keepalived.up is up, text)  # noqa: B023
        (tmp_path / "pid").unlink()
        await until(lambda: keepalived.up is False, "no file")
        assert keepalived.problem == "keepalived does not run"

    following(keepalived.run, check)


def test_a_file_in_place_of_the_fifo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notify").write_text('INSTANCE "v1-4" MASTER 254\n')
    keepalived = Keepalived(tmp_path / "notify", tmp_path / "pid", lambda *_: None)

    async def check() -> None:
        await until(lambda: keepalived.up is False, "looked")
        assert not keepalived.listening

    following(keepalived.run, check)


# ── HAProxy ───────────────────────────────────────────────────────────────────────────────────

HAPROXY = """
global
    stats socket {socket} mode 660 level operator
defaults
    mode tcp
    timeout client 1s
    timeout server 1s
    timeout connect 1s
frontend ipfix
    bind 127.0.0.1:{port}
    default_backend collectors
backend collectors
    server n1 127.0.0.1:{port}
    server n2 127.0.0.1:{port} backup disabled
"""


def test_haproxy_is_asked_at_its_socket(tmp_path: Path) -> None:
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed")
    path = tmp_path / "admin.sock"
    port = free_port(socket.SOCK_STREAM)
    (tmp_path / "haproxy.cfg").write_text(HAPROXY.format(socket=path, port=port))
    adapter = Adapter(path)
    with pytest.raises(Unavailable, match=r"down: there is no socket"):
        adapter.look()
    process = subprocess.Popen(["haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")])
    try:
        wait_for(path.is_socket, 10, "HAProxy")
        state = adapter.look()
        assert state.version[0].isdigit()
        assert {(s.backend, s.server): s.status for s in state.servers} == {
            ("collectors", "n1"): "no check",
            ("collectors", "n2"): "MAINT",
        }
    finally:
        process.kill()
        process.wait()
    with pytest.raises(Unavailable, match="down"):
        adapter.look()


@pytest.mark.parametrize("answer", [None, b"", b"nonsense\n", b"\xff\xfe: 1\nProcess_num: x\n"])
def test_what_haproxy_does_not_answer_is_its_being_down(
    tmp_path: Path, answer: bytes | None
) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                if answer is None:
                    time.sleep(1.0)
                else:
                    client.sendall(answer)
                client.close()

        threading.Thread(target=serve, daemon=True).start()
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="down: "):
            Adapter(tmp_path / "s").look()
        assert time.monotonic() - begun < 3
        server.shutdown(socket.SHUT_RDWR)


# ── anything ──────────────────────────────────────────────────────────────────────────────────


def test_a_look_that_hangs_delays_nobody_and_is_soon_unknown() -> None:
    hang = threading.Event()
    now = [0]
    looks = 0

    def look() -> int:
        nonlocal looks
        looks += 1
        if looks > 1:
            hang.wait(20)
        return looks

    source = Source("the thing", look, period=0.01, clock=lambda: now[0])
    source.start()
    wait_for(lambda: looks == 2, 5, "the look that hangs")
    assert source.seen.value == 1
    now[0] = 6 * 10**9
    assert source.seen.value is None
    assert source.seen.problem == "the thing: no answer for 6 s"
    assert not source.failed
    begun = time.monotonic()
    source.stop()
    assert time.monotonic() - begun < 2
    hang.set()


def test_whatever_a_look_raises_is_a_reason() -> None:
    source: Source[int] = Source("x", lambda: 1 // 0)
    source.refresh()
    assert (source.seen.value, source.failed) == (None, True)
    assert "division" in source.seen.problem


def test_the_machine_is_seen(tmp_path: Path) -> None:
    state = host()
    assert 0 < state.memory_available_bytes < state.memory_bytes
    assert "lo" not in state.interfaces
    assert 0 < disk(tmp_path).free_bytes <= disk(tmp_path).size_bytes
