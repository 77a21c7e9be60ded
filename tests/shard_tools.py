"""A shard without a network: datagrams are put into its journal as the kernel would."""

from __future__ import annotations

import errno
import io
import ipaddress
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from appliance.config import Config
from appliance.journal.block import SCM_TIMESTAMPNS, SLOT_BYTES, Geometry
from appliance.shard import Shard
from appliance.store.files import visible
from tests.decoding import registry

SMALL = Geometry(slots=64, areas=16)
SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


def config_of(directory: Path, **tables: dict[str, Any]) -> Config:
    return Config.model_validate(
        {
            "data_dir": str(directory),
            "node": {"name": "test"},
            "receive": {"shards": 1, "min_workers": 1, "max_workers": 1},
            "journal": {"max_bytes": 1 << 26},
            **tables,
        }
    )


def open_shard(config: Config, number: int = 0) -> Shard:
    """A shard, recovered; its journal has small blocks."""
    shard = Shard(config, number, registry())
    shard.journal.geometry = SMALL
    shard.recover(NOW)
    return shard


def let_go(shard: Shard) -> None:
    """What the end of a process does: no flush, the lock is free."""
    shard.journal.close()
    os.close(shard._lock)


def deliver(
    shard: Shard, payloads: list[bytes], exporter: str = "192.0.2.1", session: int = 0
) -> None:
    """Put ``payloads`` into the journal, as recvmmsg on an IPv4 socket does."""
    for payload in payloads:
        block = shard.journal.open_block()
        assert block is not None, "the journal is full"
        slot = block.count
        assert len(payload) <= SLOT_BYTES
        at = block.geometry.payload + slot * SLOT_BYTES
        block.buffer[at : at + len(payload)] = np.frombuffer(payload, np.uint8)
        block.names[slot] = 0
        block.names[slot, 0] = 2
        block.names[slot, 2:4] = list((9995).to_bytes(2, "big"))
        block.names[slot, 4:8] = list(ipaddress.ip_address(exporter).packed)
        block.sessions[slot] = session
        block.control["time_type"][slot] = SCM_TIMESTAMPNS
        block.control["seconds"][slot] = NOW // SECOND
        block.control["nanoseconds"][slot] = shard.journal.position
        block.messages["length"][slot] = len(payload)
        shard.journal.received(block, 1)


def settle(shard: Shard, now_ns: int = NOW) -> None:
    """Decode everything that was delivered, and flush."""
    shard._flushed_at = float("-inf")
    shard._retry_at = 0.0
    shard.step(now_ns)


def rows(config: Config, table: str = "flows") -> list[dict[str, Any]]:
    """All rows that a reader sees, without nulls, in the order of the files."""
    found: list[dict[str, Any]] = []
    for path in visible(Path(config.data_dir) / "store" / table):
        with pa.memory_map(str(path)) as source:
            read = pa.ipc.open_file(source).read_all().to_pylist()
        found += [{k: v for k, v in row.items() if v is not None} for row in read]
    return found


def numbers(config: Config) -> Counter[int]:
    """How often each number (``bytes`` of a flow record) is stored."""
    return Counter(row["bytes"] for row in rows(config))


def ledger(shard: Shard) -> list[dict[str, Any]]:
    """The ledger of a shard, as plain values."""
    found: list[dict[str, Any]] = shard.ledger.table(shard.decoder.sources).to_pylist()
    return found


def leftovers(config: Config, shard: Shard) -> list[str]:
    """Files that no recovery should leave behind."""
    directory = Path(config.data_dir)
    needed = {shard.checkpoint.state, shard.checkpoint.held}
    previous = shard.directory / "checkpoint.previous"
    found = [p for p in directory.rglob("*") if ".staged" in p.name or p.name.startswith(".tmp-")]
    for path in (*shard.directory.glob("state-*"), *shard.directory.glob("held-*")):
        if path.suffix == ".damaged":
            continue
        if path.name not in needed and path.name.encode() not in previous.read_bytes():
            found.append(path)
    return [str(p.relative_to(directory)) for p in found]


_CALLS = [
    "open",
    "write",
    "fsync",
    "ftruncate",
    "rename",
    "replace",
    "unlink",
    "remove",
    "link",
    "mkdir",
    "posix_fallocate",
]


@contextmanager
def interrupted(at: int, do: Callable[[str], None], counted: list[str]) -> Iterator[None]:
    """Call ``do(name)`` in place of the file-system call number ``at``, counted from 0.

    ``counted`` gets the names of all calls. Half of what a write was to write is written before.
    """

    def wrap(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            counted.append(name)
            if len(counted) - 1 == at:
                if name == "write":
                    original(args[0], args[1][: len(args[1]) // 8192 * 4096])
                do(name)
            return original(*args, **more)

        return call

    with (
        mock.patch.multiple(os, **{name: wrap(name, getattr(os, name)) for name in _CALLS}),
        mock.patch.object(io, "open", wrap("open", io.open)),
    ):
        yield


def disk_full(_: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def input_output_error(_: str) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def power_off(_: str) -> None:
    os._exit(77)
