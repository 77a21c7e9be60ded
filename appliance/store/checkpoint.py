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

from appliance.store.durable import replace_file, temporary_of

log = logging.getLogger(__name__)

MAGIC = b"TNDMCKPT"
_HEAD = struct.Struct("<8sIIQ")
CHECKPOINT = "checkpoint"
PREVIOUS = "checkpoint.previous"
DAMAGED = ".damaged"
"""What the names of files that could not be used end with."""


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
    state_crc: int = 0
    """CRC-32 of that file."""
    held: str = ""
    """Name of the log, beside this file, of datagrams that wait for templates; empty: none."""
    held_bytes: int = 0
    """Bytes of that log that belong to this checkpoint; what follows was never committed."""
    torn: int = 0
    """Journal slots lost with a crash of the machine, since the shard was made."""
    uncounted: int = 0
    """Datagrams before ``position`` that the ledger lacks, because the checkpoints that had counted
    them were damaged. What was decoded of them is stored."""
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
            "state_crc": self.state_crc,
            "held": self.held,
            "held_bytes": self.held_bytes,
            "torn": self.torn,
            "uncounted": self.uncounted,
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
        try:
            size = struct.unpack_from("<I", body)[0]
            head = json.loads(body[4 : 4 + size])
            at = 4 + size
            parts = {}
            for name, count in head.pop("parts").items():
                parts[name] = body[at : at + count]
                at += count
            return cls(**head, parts=parts)
        except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
            # whole, but of a program that knows other fields
            raise CheckpointError(f"not a checkpoint of this version: {error!r}") from error


def save(directory: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of a shard durably; the one before stays as ``PREVIOUS``."""
    current, previous = directory / CHECKPOINT, directory / PREVIOUS
    if current.exists():
        # at no moment there is none
        temporary = temporary_of(previous)
        temporary.unlink(missing_ok=True)
        temporary.hardlink_to(current)
        temporary.rename(previous)
        temporary.unlink(missing_ok=True)  # it is there still if both were links to one file
    replace_file(current, checkpoint.encode())


def is_last(directory: Path, checkpoint: Checkpoint) -> bool:
    """Whether ``checkpoint`` is the one in place, although :func:`save` failed."""
    try:
        return (directory / CHECKPOINT).read_bytes() == checkpoint.encode()
    except OSError:
        return False


def whole(directory: Path) -> list[tuple[Path, Checkpoint]]:
    """The checkpoints of a shard that can be read, with their files, newest first."""
    found = []
    for name in (CHECKPOINT, PREVIOUS):
        path = directory / name
        try:
            found.append((path, Checkpoint.decode(path.read_bytes())))
        except FileNotFoundError:
            continue
        except CheckpointError as error:
            log.error("%s: %s", path, error)
            set_aside(path)
    return found


def set_aside(path: Path) -> None:
    """Keep a file that cannot be used, renamed, for whoever asks why."""
    path.rename(path.with_name(path.name + DAMAGED))
