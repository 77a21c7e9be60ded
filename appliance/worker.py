"""A worker process: receives, decodes and stores for the shards that the supervisor gives it.

Two threads: one receives into the journals (see receive.receiver), the main one takes what is
there, shard by shard, through decoder and ledger into segments. The supervisor speaks to it over a
socket pair, in lines of JSON::

    {"serve": [0, 3]}      take these shards over; one that is beyond the number of shards is only
                           brought to its end, and answered by {"drained": [9]}
    {"release": [3]}       flush and give these up; answered by {"released": [3]}
    {"stop": true}         flush everything and exit

and hears ``{"ready": true}`` first, then once a second how each shard does (see
:meth:`Worker.report`).
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import select
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

from appliance.config import Config
from appliance.decode.elements import Registry
from appliance.health import canary
from appliance.health.pulse import Pulse
from appliance.health.recognise import Recogniser
from appliance.receive.listeners import Listeners
from appliance.receive.receiver import Intake, Receiver, StreamIntake
from appliance.shard import Shard
from appliance.store.retention import make_room

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
"""How long datagrams gather before they are decoded: batches make decoding cheap."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_memory() -> None:
    """Let malloc keep what is freed (mallopt(3)).

    Each batch asks for the same large arrays again; fresh pages from the kernel for them cost 10 to
    25 % of decoding. The process then stays as large as its largest batch made it.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    libc.mallopt(_M_TOP_PAD, 64 << 20)


class Worker:
    """The life of one worker process."""

    def __init__(
        self,
        config: Config,
        listeners: Listeners,
        control: socket.socket,
        pulse: Pulse | None = None,
    ) -> None:
        """``pulse``: where to say what arrives, if anybody watches."""
        self.config = config
        self.listeners = listeners
        self.control = control
        self.pulse = pulse
        self.registry = Registry.load(config.elements.files)
        self.shards: dict[int, Shard] = {}
        self.intakes: dict[int, list[Intake]] = {}
        self._stopping = False
        self._arrived = threading.Event()
        key = canary.read_key(Path(config.data_dir))
        recogniser = Recogniser(key) if key else None
        self.receiver = Receiver(self._make_room, self._arrived.set, recogniser)
        self._line = b""

    def run(self) -> None:
        """Serve until told to stop, or until the supervisor is gone."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.control.setblocking(False)
        keep_memory()
        self.receiver.start()
        self._tell({"ready": True})
        poller = select.poll()
        poller.register(self.control.fileno(), select.POLLIN)
        reported = time.monotonic()
        while not self._stopping:
            begun = time.monotonic()
            if self._arrived.is_set() or any(s.busy for s in self.shards.values()):
                self._arrived.clear()
                for shard in self.shards.values():
                    shard.step(time.time_ns())
            if self.receiver.error is not None:
                raise self.receiver.error
            if begun - reported >= 1.0:
                self._tell(self.report(begun - reported))
                reported = begun
            rest = TICK_SECONDS - (time.monotonic() - begun)
            if poller.poll(max(rest * 1000, 0)):
                self._listen()
        self.receiver.stop()
        for shard in self.shards.values():
            shard.close()

    def report(self, interval: float) -> dict[str, Any]:
        """What the supervisor hears: figures of each shard and each intake since the start.

        ``interval``: seconds since the report before.
        """
        return {
            "pid": os.getpid(),
            "shards": {str(k): shard.report() for k, shard in self.shards.items()},
            "intakes": [
                [k, i.listener, i.datagrams, i.bytes, i.kernel_dropped]
                for k, intakes in self.intakes.items()
                for i in intakes
            ],
            "streams": [
                [s.listener, s.datagrams, s.bytes, s.framing_errors, s.sessions_refused]
                for shard in self.shards.values()
                for s in shard.streams
            ],
            "stalls": self.receiver.stalls,
            "cpu_seconds": time.process_time(),
            "interval_seconds": interval,
        }

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self.control.setblocking(True)
            self.control.sendall(json.dumps(message).encode() + b"\n")
            self.control.setblocking(False)
        except ConnectionError:
            self._stopping = True

    def _listen(self) -> None:
        try:
            data = self.control.recv(65536)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._stopping = True
            return
        self._line += data
        *lines, self._line = self._line.split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, order: dict[str, Any]) -> None:
        for k in order.get("serve", ()):
            self._serve(k)
        if "release" in order:
            released = [k for k in order["release"] if k in self.shards]
            for k in released:
                self._release(k)
            self._tell({"released": released})
        if "stop" in order:
            self._stopping = True

    def _serve(self, k: int) -> None:
        if k in self.shards:
            return
        shard = Shard(self.config, k, self.registry)
        shard.recover(time.time_ns())
        if k >= self.config.receive.shards:
            # there were more of them; its exporters go to others now
            if shard.close():
                for path in shard.journal.directory.glob("*.block"):
                    path.unlink()
            self._tell({"drained": [k]})
            return
        self.shards[k] = shard
        shard.release_spares = self._release_spares
        row = self.pulse.rows[k] if self.pulse is not None else None
        columns = self.pulse.columns if self.pulse is not None else {}
        intakes = [
            Intake(name, group[k], shard.journal, row if name in columns else None,
                   columns.get(name, 0))
            for name, group in self.listeners.groups.items()
        ]  # fmt: skip
        self.intakes[k] = intakes
        # a connection must stay in one process: all sessions of TCP live with shard 0
        if k == 0:
            shard.streams = [
                StreamIntake(name, sock, shard.journal, proxied, row)
                for name, (sock, proxied) in self.listeners.streams.items()
            ]
        self.receiver.add(intakes, shard.streams)
        if row is not None:
            shard.tell_flush = row.flush_problem
            row.receiver_problem(0)  # of a process before
            row.flush_problem(0)
            row.hold()

    def _release(self, k: int) -> None:
        shard = self.shards[k]
        self.receiver.remove(shard.journal)
        if self.pulse is not None:
            self.pulse.rows[k].drop()
        shard.close()
        del self.shards[k], self.intakes[k]

    def _release_spares(self) -> int:
        return sum(shard.journal.release() for shard in list(self.shards.values()))

    def _make_room(self, needed: int) -> int:
        try:
            return self._release_spares() or make_room(Path(self.config.data_dir) / "store", needed)
        except OSError as error:
            log.error("no room can be made: %s", error)
            return 0
