"""Two real keepalived processes that share a VIP, each in a network namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from pyroute2 import netns

from tests.integration.harness import wait_for

PREFIX = "tandem-vrrp-"
ADVERT_SECONDS = 0.1
VRRP = 112
_CONFIG = """
global_defs {{
  router_id {name}
  vrrp_version 3
}}
vrrp_instance v1-4 {{
  state BACKUP
  interface vrrp
  virtual_router_id 51
  priority 254
  advert_int {advert}
  virtual_ipaddress {{
    10.79.0.101/32
  }}
}}
"""


class Node:
    """One keepalived, with its dump files in a directory of its own on tmpfs."""

    def __init__(self, name: str, address: str, directory: Path) -> None:
        self.namespace, self.address = PREFIX + name, address
        self.directory = directory / name
        self.directory.mkdir()
        self.pid_file = self.directory / "keepalived.pid"
        self.config = self.directory / "keepalived.conf"
        self.config.write_text(_CONFIG.format(name=name, advert=ADVERT_SECONDS))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        files = ["--pid", str(self.pid_file), "--vrrp_pid", str(self.directory / "vrrp.pid")]
        self._process = self.run(
            *("keepalived", "--dont-fork", "--vrrp", "--log-console"),
            *("--use-file", str(self.config), *files),
            environment={"TMPDIR": str(self.directory)},
        )

    def run(
        self, *command: str, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program in the namespace; what it says goes to a file beside the dumps."""
        with (self.directory / f"{command[0].rsplit('/', 1)[-1]}.log").open("wb") as log:
            return subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.namespace}", *command],
                env={**os.environ, **(environment or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(10)

    def ask(self) -> None:
        """Make keepalived dump, as a scrape does."""
        os.kill(int(self.pid_file.read_text()), _json_signal())

    def dump(self) -> dict[str, Any]:
        """What keepalived says of its only instance now."""
        file = self.directory / "keepalived.json"
        file.unlink(missing_ok=True)
        self.ask()
        found: list[dict[str, Any]] = []

        def whole() -> bool:
            try:
                found[:] = json.loads(file.read_text())
            except (FileNotFoundError, json.JSONDecodeError):
                return False
            return True

        wait_for(whole, 5, f"a dump of {self.namespace}")
        return found[0]

    def master(self) -> bool:
        return bool(self.dump()["data"]["state"] == 2)


class Pair:
    """Both nodes on one wire; a context manager that leaves nothing behind."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/dev/shm"))  # tmpfs, as /run
        self.nodes = [
            Node("a", "10.79.0.1", self._directory),
            Node("b", "10.79.0.2", self._directory),
        ]

    def __enter__(self) -> Pair:
        try:
            self._start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _start(self) -> None:
        one, other = self.nodes
        for node in self.nodes:
            netns.create(node.namespace)
        _ip("-n", one.namespace, "link", "add", "vrrp", "type", "veth",
            "peer", "name", "vrrp", "netns", other.namespace)  # fmt: skip
        for node in self.nodes:
            _ip("-n", node.namespace, "link", "set", "lo", "up")
            _ip("-n", node.namespace, "address", "add", f"{node.address}/24", "dev", "vrrp")
            _ip("-n", node.namespace, "link", "set", "vrrp", "up")
        for node in self.nodes:
            node.start()
        wait_for(lambda: all(n.pid_file.exists() for n in self.nodes), 5, "both keepalived run")
        time.sleep(1)  # a signal to a keepalived that is starting would end it
        wait_for(lambda: sum(n.master() for n in self.nodes) == 1, 10, "one master")

    def _remove(self) -> None:
        for node in self.nodes:
            node.stop()
            if node.namespace in netns.listnetns():
                netns.remove(node.namespace)
        shutil.rmtree(self._directory)


class AdvertClock(threading.Thread):
    """Hears the adverts that reach a node, and notes when: what a standby's timer sees."""

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True)
        self._node = node
        self._done = threading.Event()
        self._opened = threading.Event()
        self.times: list[float] = []

    def __enter__(self) -> AdvertClock:
        self.start()
        assert self._opened.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        netns.setns(self._node.namespace)  # of this thread only
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as heard:
            heard.settimeout(0.05)
            self._opened.set()
            while not self._done.is_set():
                try:
                    packet, (_, _, kind, *_) = heard.recvfrom(2048)
                except TimeoutError:
                    continue
                if packet[9] == VRRP and kind != socket.PACKET_OUTGOING:
                    self.times.append(time.monotonic())

    @property
    def gaps(self) -> list[float]:
        """Seconds between one advert and the next."""
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


def _json_signal() -> int:
    found = subprocess.run(
        ["keepalived", "--signum=JSON"], capture_output=True, text=True, check=True
    )
    return int(found.stdout)


def _ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True)
