"""Canaries: datagrams that a node sends to itself, to see that they arrive in its journals.

A canary has a key that is made once in a data directory, so that nobody outside can forge one. To
every export protocol it is a datagram of an unknown version; its odd length is one that exporters
hardly ever send, so that looking for canaries costs one comparison a datagram.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

KEY_FILE: Final = "canary-key"
KEY_BYTES: Final = 16
MAGIC: Final = b"TNDM-CAN"
PREFIX_BYTES: Final = len(MAGIC) + KEY_BYTES
_NUMBER: Final = struct.Struct(">Qx")
LENGTH: Final = PREFIX_BYTES + _NUMBER.size


def make_key(data_dir: Path) -> bytes:
    """The key of ``data_dir``, made if there is none yet; for the one collector that runs in it."""
    key = read_key(data_dir)
    if key is None:
        key = os.urandom(KEY_BYTES)
        temporary = data_dir / f"{KEY_FILE}.tmp"
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o640)
            file.write(key)
        temporary.rename(data_dir / KEY_FILE)
    return key


def read_key(data_dir: Path) -> bytes | None:
    """The key of ``data_dir``; None where there is none, or it was cut short by a crash."""
    try:
        key = (data_dir / KEY_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return key if len(key) == KEY_BYTES else None


def payload(key: bytes, number: int) -> bytes:
    """The canary ``number``."""
    return MAGIC + key + _NUMBER.pack(number)


def number_of(canary: bytes) -> int:
    """The number of a datagram that is known to be a canary."""
    number: int = _NUMBER.unpack_from(canary, PREFIX_BYTES)[0]
    return number
