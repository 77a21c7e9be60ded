"""The API as a process of its own, spoken to over a real socket."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    data_dir: Path

    def request(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def start(config: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "api", "--config", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def write_config(folder: Path, port: int) -> Path:
    path = folder / "tandem.toml"
    path.write_text(f'data_dir = "data"\n[api]\nport = {port}\n')
    (folder / "data").mkdir(exist_ok=True)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    port = free_port()
    process = start(write_config(tmp_path, port))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    yield Server(process, port, tmp_path / "data")
    process.kill()
    process.wait()


def node_document() -> dict[str, Any]:
    now = time.time_ns()
    return {
        "node": "a",
        "pid": 1,
        "started_ns": now,
        "updated_ns": now,
        "workers": [{"pid": 2, "shards": [0]}],
        "listeners": [{"address": "::", "port": 2055, "transport": "udp"}],
    }


def test_the_server_becomes_ready_when_the_collector_does_and_ends_on_sigterm(
    server: Server,
) -> None:
    assert server.request("GET", "/livez")[0] == 200
    status, body = server.request("GET", "/readyz")
    assert status == 503
    assert "no collector runs here" in json.loads(body)["detail"]
    (server.data_dir / "node.json").write_text(json.dumps(node_document()))
    deadline = time.monotonic() + 10
    while server.request("HEAD", "/readyz")[0] != 200:
        assert time.monotonic() < deadline, "not ready in 10 s"
        time.sleep(0.05)
    assert server.request("HEAD", "/readyz") == (200, b"")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=10) in (0, -signal.SIGTERM)


def test_a_port_in_use_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(write_config(tmp_path, port))
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"127.0.0.1 port {port}: Address already in use" in output


def test_a_wrong_configuration_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "tandem.toml"
    path.write_text('[api]\naddress = "0.0.0.0"\n')
    process = start(path)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"{path}:1: api: 0.0.0.0 is not a loopback address" in output
