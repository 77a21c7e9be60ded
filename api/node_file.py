"""What the collector says of itself, and whether that is well.

It writes ``node.json`` each second. Where a health unit watches it, it is asked at its socket, too,
so that what it said before it hung is not taken for what it says.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.health import state_socket

NODE_FILE = "node.json"
ASK_SECONDS = 1.0
STALE_SECONDS = 5.0
"""The supervisor writes each second; after this long without, it hangs or is dead."""


class _Part(BaseModel):
    # a newer collector may say more than this API knows
    model_config = ConfigDict(extra="ignore", frozen=True)


class Worker(_Part):
    """A worker process."""

    pid: int = Field(examples=[4712])
    shards: tuple[int, ...] = Field(examples=[[0, 1, 2, 3]])
    load: float = Field(0.0, examples=[0.12], description="Share of one processor that it uses")


class ListenerState(_Part):
    """A listener, with what came through it since the workers at hand started."""

    address: str = Field(examples=["::"])
    port: int = Field(examples=[2055])
    transport: str = Field(examples=["udp"])
    datagrams: int = Field(0, examples=[1203400])
    bytes: int = Field(0, examples=[1732896000])
    kernel_dropped: int = Field(
        0, examples=[0], description="Datagrams that found the socket's buffer full"
    )
    buffered_bytes: int = Field(0, examples=[2304], description="Waiting in the kernel's buffers")
    framing_errors: int = Field(0, examples=[0], description="TCP: messages that were none")
    sessions_refused: int = Field(0, examples=[0], description="TCP: connections not accepted")


class Shard(_Part):
    """A shard's journal, and whether its ledger balances."""

    shard: int = Field(examples=[0])
    journal_position: int = Field(
        0, examples=[1203400], description="Datagrams received since the shard was made"
    )
    journal_bytes: int = Field(0, examples=[16777216])
    checkpoint_position: int = Field(
        0, examples=[1203282], description="Datagrams of them that are stored or a named loss"
    )
    checkpoint_ns: int = Field(0, examples=[1767229199500000000])
    lag_datagrams: int = Field(0, examples=[118], description="Received and not yet stored")
    lag_seconds: float = Field(0.0, examples=[0.4], description="Age of the oldest of them")
    torn: int = Field(0, examples=[0], description="Datagrams lost with a crash of the machine")
    uncounted: int = Field(
        0, examples=[0], description="Datagrams stored, but missing from the ledger since damage"
    )
    canaries: int = Field(
        0, examples=[41000], description="Datagrams of them by which the node proves its own path"
    )
    templates_evicted: int = Field(0, examples=[0], description="Templates beyond a limit")
    options_evicted: int = Field(0, examples=[0], description="Names and rates beyond a limit")
    balanced: bool = Field(True, description="received = stored + named losses, each exporter")
    imbalances: tuple[str, ...] = ()


class NodeDocument(_Part):
    """A node: its processes, listeners and shards, about a second ago at most."""

    node: str = Field(examples=["tandem-1"])
    version: str = Field("", examples=["0.1.0"])
    pid: int = Field(examples=[4711])
    started_ns: int = Field(examples=[1767225600000000000])
    updated_ns: int = Field(examples=[1767229200000000000])
    workers: tuple[Worker, ...] = ()
    listeners: tuple[ListenerState, ...] = ()
    shards: tuple[Shard, ...] = ()
    config_sha256: str = Field(
        "", examples=["9f86d081884c7d65…"], description="Of the configuration that is in force"
    )
    settings_version: int = Field(
        0, examples=[7], description="Of the settings in it; 0: the file alone"
    )
    settings_problem: str = Field(
        "",
        examples=["cannot listen on udp://[::]:2055: Address already in use; …"],
        description="Why the configuration that is wanted is not in force",
    )
    pending_restart: tuple[str, ...] = Field(
        (), examples=[["receive.shards"]], description="Keys whose new values need a restart"
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One reading of the file: ``document``, or why there is none."""

    document: NodeDocument | None
    problem: str
    read_ns: int

    def unready(self, now_ns: int) -> list[str]:
        """Why the node does not collect; empty when it does."""
        if now_ns - self.read_ns > STALE_SECONDS * 1e9:
            return ["the API itself has not looked at the node for a while"]
        if self.document is None:
            return [self.problem]
        reasons = []
        age = (now_ns - self.document.updated_ns) / 1e9
        if age > STALE_SECONDS:
            reasons.append(f"the collector said nothing for {age:.0f} s: it has stopped, or hangs")
        if not self.document.workers:
            reasons.append("no worker process runs")
        if not self.document.listeners:
            reasons.append("nothing listens")
        idle = {s.shard for s in self.document.shards}
        for worker in self.document.workers:
            idle -= set(worker.shards)
        if idle and self.document.workers:
            reasons.append(f"no worker serves shards {', '.join(map(str, sorted(idle)))}")
        return reasons

    def warnings(self) -> list[str]:
        """What is wrong but does not keep the node from collecting."""
        if self.document is None:
            return []
        found = [
            f"shard {s.shard}: the ledger does not balance: {'; '.join(s.imbalances)}"
            for s in self.document.shards
            if not s.balanced
        ]
        if self.document.settings_problem:
            found.append(f"a configuration is not in force: {self.document.settings_problem}")
        return found


def read(data_dir: Path, now_ns: int) -> Snapshot:
    """Read the file of the node whose state is in ``data_dir``."""
    path = data_dir / NODE_FILE
    try:
        return Snapshot(NodeDocument.model_validate_json(path.read_bytes()), "", now_ns)
    except FileNotFoundError:
        problem = f"no collector runs here: there is no {path}"
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}"
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        problem = f"{path} is not a node's state: {where}: {error.errors()[0]['msg']}"
    return Snapshot(None, problem, now_ns)


def ask(path: Path, now_ns: int) -> Snapshot:
    """Ask the collector at its socket ``path``."""
    try:
        return Snapshot(
            NodeDocument.model_validate_json(state_socket.ask(path, ASK_SECONDS)), "", now_ns
        )
    except (FileNotFoundError, ConnectionRefusedError):
        problem = f"no collector runs here: nothing answers at {path}"
    except TimeoutError:
        problem = f"the collector does not answer within {ASK_SECONDS:g} s: it hangs"
    except OSError as error:
        problem = f"the collector cannot be asked at {path}: {error.strerror}"
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        problem = f"{path} does not answer with a node's state: {where}: {error.errors()[0]['msg']}"
    return Snapshot(None, problem, now_ns)


class Watcher:
    """Keeps the newest snapshot in memory, so that health checks never wait for a disk."""

    def __init__(
        self,
        look: Callable[[int], Snapshot],
        period: float = 1.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """``look``: :func:`read` or :func:`ask`, of a path, at the time given."""
        self._look = look
        self._period = period
        self.clock = clock
        self.snapshot = look(clock())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look at the file each period."""
        self._thread.start()

    def stop(self) -> None:
        """End within a moment."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def refresh(self) -> None:
        """Look at the file now."""
        self.snapshot = self._look(self.clock())

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            self.refresh()
