"""The process that watches a collector: canaries out, verdicts into files, several times a second.

It is not the collector, so that a collector that hangs is noticed; and the service manager's
watchdog notices when this process does.
"""

from __future__ import annotations

import logging
import signal
import time
from pathlib import Path
from typing import Final

from appliance.config import Config
from appliance.health import canary
from appliance.health.judge import RULES, Judge, State, Verdict
from appliance.health.probe import Sender, Watch
from appliance.health.pulse import PULSE_FILE
from appliance.health.report import JSON_FILE, TRACK_FILE, TrackFile, write_json
from appliance.receive import systemd
from appliance.receive.sockets import Endpoint

log = logging.getLogger(__name__)

ROUNDS: Final = 5
"""Canaries that a shard may miss before it counts as hung."""
REPORT_SECONDS: Final = 0.5


class HealthWatch:
    """Watches until SIGTERM or SIGINT; the value in force then stays in force."""

    def __init__(self, config: Config) -> None:
        """``config``: with a table ``[health]``."""
        assert config.health is not None
        directory = Path(config.health.directory)
        self._data_dir = Path(config.data_dir)
        self._period = config.health.hung_seconds / ROUNDS
        self._shards = config.receive.shards
        self._watch = Watch(directory / PULSE_FILE, self._shards, self._period, time.monotonic_ns())
        self._sender: Sender | None = None
        self._sent_through: dict[int, str] = {}
        self._track = TrackFile(directory / TRACK_FILE)
        self._json = directory / JSON_FILE
        value = self._track.read()
        if value is None:
            value = RULES[State.STARTING].value
            self._track.write(value)
        self._judge = Judge(config.health.hung_seconds, value)
        self._written = value
        self._state: State | None = None
        self._since_ns = 0
        self._reported = -REPORT_SECONDS
        self._key: bytes | None = None
        self._stopping = False

    def run(self) -> int:
        """Watch; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        systemd.notify("READY=1")
        due = time.monotonic()
        while not self._stopping:
            self._round()
            due = max(due + self._period, time.monotonic())
            time.sleep(max(due - time.monotonic(), 0.0))
        systemd.notify("STOPPING=1")
        return 0

    def _on_signal(self, number: int, frame: object) -> None:
        self._stopping = True

    def _round(self) -> None:
        """Look at what came of the canaries before, say so, and send the next."""
        self._watch.tick(time.monotonic_ns())
        self._say(self._judge.judge(self._watch.now / 1e9, self._watch.look()))
        if self._key is None:
            self._key = canary.read_key(self._data_dir)
        if self._watch.listeners != self._sent_through:
            self._follow()
        if self._key is not None and self._sender is not None:
            self._sender.send(canary.payload(self._key, self._watch.now))

    def _follow(self) -> None:
        """Send through the listeners that the collector has now."""
        if self._sender is not None:
            self._sender.close()
        self._sent_through = self._watch.listeners
        names = self._sent_through.values()
        self._sender = Sender([Endpoint.parse(n) for n in names], self._shards) if names else None

    def _say(self, verdict: Verdict) -> None:
        now = time.monotonic()
        changed = verdict.state != self._state
        if verdict.value != self._written:
            self._track.write(verdict.value)
            changed = True
        if changed:
            self._since_ns = time.time_ns()
            log.log(
                logging.INFO if verdict.value == 0 else logging.ERROR,
                "%s (%d): %s", verdict.state, verdict.value, verdict.reason,
            )  # fmt: skip
        self._written, self._state = verdict.value, verdict.state
        if not changed and now - self._reported < REPORT_SECONDS - self._period / 2:
            return
        self._reported = now
        document = {
            "state": verdict.state,
            "reason": verdict.reason,
            "value": verdict.value,
            "since_ns": self._since_ns,
            "updated_ns": time.time_ns(),
            "shards": [
                {"shard": k, "age_seconds": None if age is None else round(age, 3)}
                for k, age in enumerate(self._watch.ages())
            ],
        }
        try:
            write_json(self._json, document)
        except OSError as error:
            log.error("%s: %s", self._json, error)
        systemd.notify("WATCHDOG=1", f"STATUS={verdict.state}: {verdict.reason}")


def main(config: Config) -> int:
    """Watch the collector of ``config`` in the foreground; the exit status."""
    return HealthWatch(config).run()
