"""A real collector as a child process, and numbered NetFlow v5 traffic for it."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from appliance.receive.sockets import Endpoint, open_group
from appliance.store.files import visible

RECORDS = 10
_HEADER = struct.Struct(">HHIIIIBBH")
_RECORD = struct.Struct(">IIIHHIIIIHHBBBBHHBBH")


def free_port(kind: int = socket.SOCK_DGRAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(
    condition: Callable[[], bool],
    seconds: float,
    what: str | Callable[[], str],
    period: float = 0.02,
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(
                f"not within {seconds} s: {what if isinstance(what, str) else what()}"
            )
        time.sleep(period)


def datagram(sequence: int) -> bytes:
    """A v5 datagram of RECORDS flow records; ``bytes`` of each is its number, from 1."""
    now = time.time()
    head = _HEADER.pack(5, RECORDS, 3_600_000, int(now), 0, sequence, 0, 0, 0)
    return head + b"".join(
        _RECORD.pack(
            0x0A000001, (sequence + i) * 2654435761 & 0xFFFFFFFF,
            (sequence + i) * 40503 & 0xFFFFFFFF, 1, 2, 7, sequence + i + 1, 3_590_000, 3_599_000,
            1234, 443, 0, 0x18, 6, 0, 1, 2, 24, 24, 0,
        )
        for i in range(RECORDS)
    )  # fmt: skip


class Traffic(threading.Thread):
    """Sends ``count`` numbered datagrams from each of ``exporters`` at ``rate`` a second in all.

    ``first``: the number of the first exporter.
    """

    def __init__(
        self, port: int, count: int, rate: float, exporters: int = 4, first: int = 0
    ) -> None:
        super().__init__(daemon=True)
        self.port, self.count, self.rate, self.exporters = port, count, rate, exporters
        self.first = first
        self._enough = threading.Event()
        self.sent = 0

    def enough(self) -> None:
        """Send no more; ``count`` is then what each exporter has sent."""
        self._enough.set()
        self.join()

    def run(self) -> None:
        socks = []
        for i in range(self.first, self.first + self.exporters):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((f"127.9.{i}.1", 0))
            sock.connect(("127.0.0.1", self.port))
            socks.append(sock)
        begun = time.monotonic()
        for n in range(self.count):
            if self._enough.is_set():
                self.count = n
                break
            payload = datagram(n * RECORDS)
            for sock in socks:
                while True:
                    try:
                        sock.send(payload)
                        break
                    except ConnectionRefusedError:
                        continue  # the error of an earlier send; this one was not sent
                self.sent += 1
            ahead = begun + self.sent / self.rate - time.monotonic()
            if ahead > 0.005:
                time.sleep(ahead)
        for sock in socks:
            sock.close()


class Collector:
    """``tandem collect`` with a configuration of its own in ``directory``."""

    def __init__(
        self, directory: Path, held_sockets: bool = False, disk_bytes: int = 0, **tables: str
    ) -> None:
        """``held_sockets``: this process keeps them, as a service manager would.

        ``disk_bytes``: the data directory is a file system of that size, in a mount namespace of
        the collector's own (needs root). ``tables``: lines for a table of the configuration file.
        """
        self.directory = directory
        self.disk_bytes = disk_bytes
        self._data = directory / "data"
        self._data.mkdir(exist_ok=True)
        self.port = free_port()
        self.config = directory / "tandem.toml"
        self.log = directory / "collector.log"
        self.tables = {
            "receive": "shards = 4\nreceive_buffer = 33554432",
            "store": "flush_seconds = 0.2\nreserve_bytes = 0",
            "journal": "max_bytes = 1073741824",
            "api": f'state_dir = "{directory}"',
            **tables,
        }
        self.top = ""
        """Lines before the first table of the file."""
        self.setup = ""
        """Python statements that the collector runs before it begins, to shorten its waits."""
        self.write_config()
        self.shards = 4
        """How many the configuration asks for."""
        self.held: list[socket.socket] = []
        if held_sockets:
            self.held = open_group(Endpoint("udp", "127.0.0.1", self.port), 4, 32 << 20)
        self.process: subprocess.Popen[bytes] | None = None
        self.pid = 0

    @property
    def data(self) -> Path:
        """The data directory, as this process can see it."""
        return Path(f"/proc/{self.pid}/root{self._data}") if self.disk_bytes else self._data

    def write_config(self, extra: str = "") -> None:
        text = f'data_dir = "{self._data}"\n{self.top}[node]\nname = "test"\n'
        text += f'[[listener]]\naddress = "127.0.0.1"\nport = {self.port}\n'
        text += "".join(f"[{name}]\n{lines}\n" for name, lines in self.tables.items())
        self.config.write_text(text + extra)

    def start(self) -> None:
        environment = dict(os.environ)
        environment.pop("LISTEN_FDS", None)
        names = ":".join(f"udp-127_0_0_1-{self.port}.{k}" for k in range(len(self.held)))

        def hand_over() -> None:
            if self.held:
                # away from 3.., which they are about to be copied onto
                high = [os.dup2(s.fileno(), 200 + i) for i, s in enumerate(self.held)]
                for i, fd in enumerate(high):
                    os.dup2(fd, 3 + i)
                    os.set_inheritable(3 + i, True)
                os.environ.update(
                    LISTEN_PID=str(os.getpid()),
                    LISTEN_FDS=str(len(high)),
                    LISTEN_FDNAMES=names,
                )

        code = f"from appliance.cli.main import main\n{self.setup}\n"
        command = [sys.executable, "-c", code + f"main(['collect', '--config', '{self.config}'])"]
        if self.disk_bytes:
            mount = f"mount -t tmpfs -o size={self.disk_bytes} tmpfs {self._data}"
            command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
        with self.log.open("ab") as log:
            if self.held:
                pid = os.fork()
                if pid == 0:
                    os.dup2(log.fileno(), 1)
                    os.dup2(log.fileno(), 2)
                    hand_over()
                    os.execvp(command[0], command)
                self.pid = pid
            else:
                self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
                self.pid = self.process.pid
        wait_for(lambda: self.node().get("pid") == self.pid, 30, "the collector's start")
        wait_for(lambda: len(self.node()["shards"]) == self.shards, 30, "all shards served")

    def node(self) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads((self.data / "node.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return document

    def worker_pids(self) -> list[int]:
        return [w["pid"] for w in self.node()["workers"] if w["shards"]]

    def _wait(self) -> int:
        if self.process is not None:
            return self.process.wait(60)
        return os.waitpid(self.pid, 0)[1]

    def kill(self) -> None:
        """SIGKILL; the children go with it."""
        children = [*self.worker_pids(), *_children(self.pid)]
        os.kill(self.pid, signal.SIGKILL)
        self._wait()
        wait_for(lambda: not any(_alive(p) for p in children), 10, "workers gone")
        (self.data / "node.json").unlink(missing_ok=True)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return self._wait()

    def end(self) -> None:
        """Whatever state it is in, leave nothing behind."""
        for sock in self.held:
            sock.close()
        if _alive(self.pid):
            os.kill(self.pid, signal.SIGKILL)
            self._wait()

    def numbers(self) -> list[tuple[str, int]]:
        """(exporter, number) of every stored flow record."""
        rows: list[tuple[str, int]] = []
        for path in visible(self.data / "store" / "flows"):
            table = read(path)
            exporters = table["exporter"].combine_chunks()
            storage = exporters.storage if hasattr(exporters, "storage") else exporters
            addresses = [address.hex() for address in storage.to_pylist()]
            rows += zip(addresses, table["bytes"].to_pylist(), strict=True)
        return rows

    def stored(self) -> int:
        return sum(read(p).num_rows for p in visible(self.data / "store" / "flows"))


def read(path: Path) -> pa.Table:
    """A file of the store as a table, hot or packed."""
    if path.suffix == ".arrow":
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()
    return pq.read_table(path)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(p) for p in text.split()]
