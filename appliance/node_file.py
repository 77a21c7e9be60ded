"""``node.json``: what a running collector says of itself, for API and command line."""

from __future__ import annotations

import json
import logging
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from appliance.children import Child
from appliance.receive.listeners import Listeners

log = logging.getLogger(__name__)

NODE_FILE = "node.json"
SO_MEMINFO = 55


def document(identity: Mapping[str, Any], opened: Listeners, workers: Iterable[Child]) -> bytes:
    """What the node is now; figures of workers are those of their last report.

    ``identity``: what is not a matter of its processes.
    """
    workers = list(workers)
    intakes: dict[str, list[int]] = {}
    shards: dict[str, Any] = {}
    streams: dict[str, list[int]] = {}
    for worker in workers:
        shards |= worker.report.get("shards", {})
        for _, name, datagrams, size, _ in worker.report.get("intakes", ()):
            total = intakes.setdefault(name, [0, 0])
            total[0] += datagrams
            total[1] += size
        for name, *figures in worker.report.get("streams", ()):
            streams[name] = figures
    listeners = []
    for name, endpoint in opened.endpoints.items():
        row: dict[str, Any] = {
            "listener": name,
            "address": endpoint.address,
            "port": endpoint.port,
            "transport": endpoint.transport,
        }
        if name in opened.groups:
            datagrams, size = intakes.get(name, [0, 0])
            memory = [_memory(s) for s in opened.groups[name]]
            row |= {"datagrams": datagrams, "bytes": size}
            row |= {"kernel_dropped": sum(m[1] for m in memory)}
            row |= {"buffered_bytes": sum(m[0] for m in memory)}
        else:
            datagrams, size, framing, refused = streams.get(name, [0, 0, 0, 0])
            row |= {"datagrams": datagrams, "bytes": size, "kernel_dropped": 0}
            row |= {"framing_errors": framing, "sessions_refused": refused}
        listeners.append(row)
    node = {
        **identity,
        "updated_ns": time.time_ns(),
        "workers": [
            {"pid": w.pid, "shards": sorted(w.shards), "load": round(w.load, 3)} for w in workers
        ],
        "listeners": listeners,
        "shards": [{"shard": int(k), **shards[k]} for k in sorted(shards, key=int)],
    }
    return json.dumps(node).encode()


def write(data_dir: Path, data: bytes) -> None:
    """Replace the file."""
    path = data_dir / NODE_FILE
    temporary = path.with_suffix(".tmp")
    try:
        # not synced: after a crash of the machine there is no running node to describe
        temporary.write_bytes(data)
        temporary.rename(path)
    except OSError as error:
        log.error("%s: %s", path, error)


def _memory(sock: socket.socket) -> tuple[int, int]:
    """Bytes waiting in a socket's receive buffer, and datagrams it ever dropped (SO_MEMINFO)."""
    values = struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
    return values[0], values[8]
