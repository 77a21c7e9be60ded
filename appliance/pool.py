"""The worker processes, and who has which shards.

Sockets, journals and states outlive workers. A worker may die, be replaced by one with another
configuration, or give a shard to another, and nothing is lost while the kernel's buffers hold.
Moving shards is what grows and shrinks the number of workers.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from appliance.children import Child, Restarts, fork
from appliance.config import Config

log = logging.getLogger(__name__)

GROW_LAG_SECONDS = 1.0
"""A worker that decodes this much later than the flush wants it, for two reports in a row, gives
shards away."""
SHRINK_AFTER_SECONDS = 60.0
SHRINK_LOAD = 0.3
"""Workers that together use less than this share of one worker's time become one fewer."""
SILENT_SECONDS = 30.0
"""A worker that reports nothing for so long, with no shard to recover or to hand over, hangs: it is
killed, and another gets its shards."""


class Pool:
    """Starts workers, hears them, and moves shards between them."""

    def __init__(
        self, config: Config, body: Callable[[socket.socket], None], restarts: Restarts
    ) -> None:
        """``body``: a worker's life, in a process of its own, with its control socket."""
        self.config = config
        """With which workers are started."""
        self.generation = 0
        """Grows with what workers are started with."""
        self.workers: list[Child] = []
        self.moving: dict[int, Child] = {}
        """Shards on their way: to whom they go once they are released."""
        self._body = body
        self._restarts = restarts
        self._quiet_since = time.monotonic()
        self._not_before = 0.0

    def start(self) -> None:
        """Start as few workers as may be, for all shards."""
        count = self.config.receive.min_workers
        shards = range(self.config.receive.shards)
        for w in range(count):
            mine = {k for k in shards if k % count == w}
            # what a configuration with more shards has left is decoded and stored once
            left = leftover(Path(self.config.data_dir), len(shards)) if w == 0 else set()
            self._start_worker(mine | left)

    def _start_worker(self, shards: set[int]) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

        def body() -> None:
            ours.close()
            self._body(theirs)

        child = fork(body, ours)
        theirs.close()
        child.generation = self.generation
        self.workers.append(child)
        self._serve(child, shards)
        return child

    def _serve(self, worker: Child, shards: set[int]) -> None:
        worker.shards |= shards
        if shards:
            worker.order({"serve": sorted(shards)})

    def stop(self) -> None:
        """Tell all to store what they have, and to end."""
        for worker in self.workers:
            worker.order({"stop": True})

    # one configuration after another

    @property
    def settled(self) -> bool:
        """Whether every shard is where it is to stay, and no worker is on its way."""
        served = {k for w in self.workers for k in w.shards}
        at_rest = all(w.shards and w.takes is None for w in self.workers)
        return at_rest and not self.moving and served >= set(range(self.config.receive.shards))

    def replace_one(self) -> bool:
        """Start another beside a worker of an earlier generation; False when there is none left.

        It takes the shards over once it is ready, and the old worker ends; to be called when all is
        settled.
        """
        old = next((w for w in self.workers if w.generation != self.generation), None)
        if old is None:
            return False
        self._start_worker(set()).takes = old, set(old.shards), True
        self._not_before = time.monotonic() + 5.0
        return True

    # what workers say, and how they end

    def hear(self, worker: Child) -> None:
        """Take in what ``worker`` has said."""
        for message in worker.messages():
            if "ready" in message:
                self._take_over(worker)
            elif "drained" in message:
                for k in message["drained"]:
                    worker.shards.discard(k)
                    self.moving.pop(k, None)
            elif "released" in message:
                for k in message["released"]:
                    worker.shards.discard(k)
                    target = self.moving.pop(k, None)
                    if target is None or target not in self.workers:
                        target = min(self.workers, key=lambda w: len(w.shards))
                    self._serve(target, {k})
            else:
                spent = message["cpu_seconds"] - worker.report.get("cpu_seconds", 0.0)
                worker.load = spent / max(message["interval_seconds"], 0.001)
                worker.report = message

    def _take_over(self, worker: Child) -> None:
        """``worker`` is ready: only now its shards leave the one that has them."""
        if worker.takes is None:
            return
        source, shards, ends = worker.takes
        worker.takes = None
        if source in self.workers:
            self._move(source, worker, shards & source.shards)
            if ends:
                source.order({"stop": True})
        elif not worker.shards:
            # the source died, and what replaced it has its shards
            worker.order({"stop": True})

    def _move(self, source: Child, target: Child, shards: set[int]) -> None:
        self.moving.update(dict.fromkeys(shards, target))
        source.order({"release": sorted(shards)})
        self._not_before = time.monotonic() + 5.0

    def ended(self, pid: int, status: int) -> None:
        """A child ended. If it was a worker with shards, another gets them; the journals have what
        it had.
        """
        for worker in [w for w in self.workers if w.pid == pid]:
            self.workers.remove(worker)
            if worker.control is not None:
                worker.control.close()
            for k in worker.shards:
                self.moving.pop(k, None)
            if worker.shards:
                start = partial(self._start_worker, worker.shards)
                self._restarts.again("worker", worker, status, start)

    def end_silent(self) -> None:
        """Kill workers that hang; what then happens is what happens when they die."""
        for worker in self.workers:
            # while it recovers a shard it cannot report; nor while it brings one to its end that it
            # gives up, which takes as long as there is in the journal
            reported = {int(k) for k in worker.report.get("shards", ())}
            recovers = not worker.report or reported != worker.shards
            limit = SILENT_SECONDS * (10 if self.moving else 1)
            silent = time.monotonic() - worker.heard
            if not recovers and silent > limit:
                log.error("worker %d says nothing for %.0f s", worker.pid, silent)
                os.kill(worker.pid, signal.SIGKILL)

    # as many as are needed

    def balance(self) -> None:
        """Grow when a worker stays behind, shrink when all of them have little to do."""
        receive = self.config.receive
        if self.moving or time.monotonic() < self._not_before:
            return
        for idle in [w for w in self.workers if not w.shards and w.takes is None]:
            idle.order({"stop": True})  # those whose shards it was to get have died
        for worker in self.workers:
            shards = worker.report.get("shards", {})
            lag = max((s["lag_seconds"] for s in shards.values()), default=0.0)
            usual = self.config.store.flush_seconds + GROW_LAG_SECONDS
            worker.behind = worker.behind + 1 if lag > usual else 0
        busiest = max(self.workers, key=lambda w: (w.behind, w.load), default=None)
        if busiest is None:
            return
        if busiest.behind >= 2 and len(busiest.shards) > 1:
            self._quiet_since = time.monotonic()
            if len(self.workers) < receive.max_workers:
                self._grow(busiest)
            return
        if sum(w.load for w in self.workers) > SHRINK_LOAD:
            self._quiet_since = time.monotonic()
        quiet = time.monotonic() - self._quiet_since
        if len(self.workers) > receive.min_workers and quiet > SHRINK_AFTER_SECONDS:
            self._shrink()

    def _grow(self, busiest: Child) -> None:
        shards = busiest.report.get("shards", {})
        # shard 0 has the TCP sessions, and stays; every second of the others by load moves
        order = sorted(
            busiest.shards - {0}, key=lambda k: -shards.get(str(k), {}).get("lag_datagrams", 0)
        )
        move = set(order[::2])
        child = self._start_worker(set())
        child.takes = busiest, move, False
        log.info("worker %d is behind: shards %s move to %d", busiest.pid, sorted(move), child.pid)
        self._not_before = time.monotonic() + 5.0

    def _shrink(self) -> None:
        last = self.workers[-1]
        if 0 in last.shards or not last.shards:
            return
        first = self.workers[0]
        log.info("little to do: worker %d gives %s to %d", last.pid, last.shards, first.pid)
        self._move(last, first, set(last.shards))
        last.order({"stop": True})
        self._quiet_since = time.monotonic()


def leftover(data_dir: Path, shards: int) -> set[int]:
    """Shards of a configuration with more than ``shards`` of them, whose journals have blocks."""
    found = {
        int(path.name)
        for path in (data_dir / "shards").glob("*")
        if path.name.isdigit() and int(path.name) >= shards and any(path.glob("journal/*.block"))
    }
    if found:
        log.warning("shards %s are none any more; what they have is stored first", sorted(found))
    return found
