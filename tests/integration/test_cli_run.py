"""``tandem run`` as a user starts it: one command, then flows to ask for, then Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from appliance.children import only_one
from tests.integration.harness import RECORDS, datagram, free_port, wait_for

TANDEM = [sys.executable, "-m", "appliance.cli"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tandem.toml"
    path.write_text(
        f'data_dir = "data"\n[api]\nport = {free_port(socket.SOCK_STREAM)}\n'
        "[receive]\nshards = 2\nreceive_buffer = 1048576\n"
        "[store]\nflush_seconds = 0.2\nreserve_bytes = 0\n"
        f'[[listener]]\naddress = "127.0.0.1"\nport = {free_port()}\n'
    )
    return path


def number(config: Path, table: str) -> int:
    return int(config.read_text().split(f"[{table}]")[1].split("port = ")[1].split()[0])


def send(config: Path, count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for n in range(count):
            sock.sendto(datagram(n * RECORDS), ("127.0.0.1", number(config, "[listener]")))


def ask(config: Path, *args: str) -> list[dict]:
    found = subprocess.run([*TANDEM, *args, "--json", "--config", str(config)],
                           capture_output=True, text=True, check=False)  # fmt: skip
    return [json.loads(line) for line in found.stdout.splitlines()]


def children(pid: int) -> set[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in found}


def test_one_command_collects_answers_and_ends_cleanly(config, tmp_path):
    with subprocess.Popen([*TANDEM, "run", "--config", str(config)], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert str(number(config, "[listener]")) in process.stdout.readline()
            node = tmp_path / "data" / "node.json"
            wait_for(node.exists, 20, "the collector says that it runs")
            send(config, 5)
            wait_for(lambda: bool(ask(config, "top")), 20, "flows are stored")
            top = ask(config, "top", "--by", "src,dst_port")[0]
            assert (top["src_addr"], top["dst_port"]) == ("10.0.0.1", 443)
            address = f"http://127.0.0.1:{number(config, 'api')}/livez"
            with urllib.request.urlopen(address, timeout=10) as answer:
                assert answer.status == 200
            below = children(process.pid)
            assert len(below) == 2
        finally:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "stopped" in out
        assert "Traceback" not in err
        for pid in below:
            assert not Path(f"/proc/{pid}").exists()
    ledger = ask(config, "ledger")
    assert sum(row["records_stored"] for row in ledger) == 5 * RECORDS
    assert subprocess.run([*TANDEM, "ledger", "--config", str(config)], check=False,
                          capture_output=True).returncode == 0  # fmt: skip


def test_a_port_that_is_taken_is_explained_and_nothing_stays_behind(config):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", number(config, "[listener]")))
        found = subprocess.run([*TANDEM, "run", "--no-api", "--config", str(config)], text=True,
                               capture_output=True, timeout=60, check=False)  # fmt: skip
    assert found.returncode == 1
    assert "in use" in found.stderr
    assert "the collector ended (1)" in found.stderr
    assert "collects on" not in found.stdout
    assert "Traceback" not in found.stderr


def test_a_data_directory_that_is_taken_is_named_before_any_port(config):
    (config.parent / "data").mkdir()
    with only_one(config.parent / "data"):
        found = subprocess.run([*TANDEM, "run", "--config", str(config)], text=True,
                               capture_output=True, timeout=60, check=False)  # fmt: skip
    assert found.returncode == 1
    assert "another collector uses" in found.stderr
    assert "port" not in found.stderr


def test_a_data_directory_that_may_not_be_written_is_named(config):
    # root may write everything; nobody may open a directory as a file
    (config.parent / "data" / "lock").mkdir(parents=True)
    found = subprocess.run([*TANDEM, "run", "--config", str(config)], text=True,
                           capture_output=True, timeout=60, check=False)  # fmt: skip
    assert found.returncode == 1
    assert "may not be written by this user" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_port_of_the_api_that_is_taken_is_named_once(config):
    port = number(config, "api")
    with socket.create_server(("127.0.0.1", port)):
        found = subprocess.run([*TANDEM, "run", "--config", str(config)], text=True,
                               capture_output=True, timeout=60, check=False)  # fmt: skip
    assert found.returncode == 1
    assert f"127.0.0.1 port {port}: Address already in use; set api" in found.stderr


def test_the_parts_end_when_the_command_is_killed(config, tmp_path):
    command = [*TANDEM, "run", "--config", str(config)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        wait_for((tmp_path / "data" / "node.json").exists, 20, "the collector says that it runs")
        below = children(process.pid)
        process.kill()
    wait_for(
        lambda: not any(Path(f"/proc/{pid}/exe").is_symlink() and _alive(pid) for pid in below),
        30,
        "collector and API have ended",
    )


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_terminal_gets_a_live_view(config):
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [*TANDEM, "run", "--no-api", "--config", str(config)])
    seen = b""
    deadline = time.monotonic() + 40
    sent = asked = False
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:
                break
        if not sent and b"Point an exporter" in seen:
            send(config, 5)
            sent = True
        if not asked and b"NetFlow v5" in seen and b"10.0.0.1" in seen:
            os.write(terminal, b"\x03")
            asked = True
    if not asked:
        os.kill(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert asked, seen.decode(errors="replace")[-2000:]
    assert os.waitstatus_to_exitcode(status) == 0
    assert b"stopped" in seen
