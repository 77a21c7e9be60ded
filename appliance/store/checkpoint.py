"""The checkpoint of a shard: one file that says what is safely stored, replaced atomically.

It holds, as of one journal position: the ledger, the segments that this flush made, the name of the
file with the slowly changing state (templates, options), which is written only when that changed,
and how much of the log of held datagrams counts. Everything in it belongs to the same position, so
that a restart is: load, replay the journal from there, and arrive at the state that was lost.
"""

from __future__ import annotations

import json
import logging
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from appliance.store.durable import replace_file

log = logging.getLogger(__name__)

MAGIC = b"TNDMCKPT"
_HEAD = struct.Struct("<8sIIQ")
CHECKPOINT = "checkpoint"
PREVIOUS = "checkpoint.previous"


class CheckpointError(Exception):
    """A checkpoint file that is torn or foreign."""


@dataclass(slots=True)
class Checkpoint:
    """See the module. ``position``: all datagrams before it are stored or in the ledger."""

    position: int = 0
    next_segment: int = 0
    updated_ns: int = 0
    staged: list[str] = field(default_factory=list)
    """Staged segments of this flush, relative to the store; to be published."""
    state: str = ""
    """Name of the file, beside this one, with templates and options; empty: none yet."""
    held: str = ""
    """Name of the log, beside this file, of datagrams that wait for templates; empty: none."""
    held_bytes: int = 0
    """Bytes of that log that belong to this checkpoint; what follows was never committed."""
    torn: int = 0
    """Journal slots lost with a crash of the machine, since the shard was made."""
    parts: dict[str, bytes] = field(default_factory=dict)
    """Opaque state by its owner: ``ledger``."""

    def encode(self) -> bytes:
        """The file's content."""
        head = {
            "position": self.position,
            "next_segment": self.next_segment,
            "updated_ns": self.updated_ns,
            "staged": self.staged,
            "state": self.state,
            "held": self.held,
            "held_bytes": self.held_bytes,
            "torn": self.torn,
            "parts": {name: len(data) for name, data in self.parts.items()},
        }
        text = json.dumps(head, separators=(",", ":")).encode()
        body = struct.pack("<I", len(text)) + text + b"".join(self.parts.values())
        return _HEAD.pack(MAGIC, 1, zlib.crc32(body), len(body)) + body

    @classmethod
    def decode(cls, data: bytes) -> Checkpoint:
        """Parse a file's content; raises CheckpointError."""
        if len(data) < _HEAD.size:
            raise CheckpointError("too short")
        magic, version, crc, length = _HEAD.unpack_from(data)
        body = data[_HEAD.size :]
        if magic != MAGIC or version != 1:
            raise CheckpointError("not a checkpoint of this version")
        if len(body) != length or zlib.crc32(body) != crc:
            raise CheckpointError("fails its checksum")
        size = struct.unpack_from("<I", body)[0]
        head = json.loads(body[4 : 4 + size])
        at = 4 + size
        parts = {}
        for name, count in head.pop("parts").items():
            parts[name] = body[at : at + count]
            at += count
        return cls(**head, parts=parts)


def save(directory: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of a shard durably; the one before stays as ``PREVIOUS``."""
    current, previous = directory / CHECKPOINT, directory / PREVIOUS
    if current.exists():
        previous.unlink(missing_ok=True)
        previous.hardlink_to(current)
    replace_file(current, checkpoint.encode())


def load(directory: Path) -> tuple[Checkpoint, bool]:
    """The newest whole checkpoint of a shard, and whether it is the last one written.

    A new shard gets an empty one. A damaged file is kept, renamed, for whoever asks why.
    """
    for name in (CHECKPOINT, PREVIOUS):
        path = directory / name
        try:
            return Checkpoint.decode(path.read_bytes()), name == CHECKPOINT
        except FileNotFoundError:
            continue
        except CheckpointError as error:
            log.error("%s: %s", path, error)
            path.rename(path.with_suffix(".damaged"))
    damaged = any(directory.glob("checkpoint*.damaged"))
    return Checkpoint(), not damaged
