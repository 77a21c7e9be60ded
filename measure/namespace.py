"""Network namespaces: by the name that ``ip netns`` gave, or the path of one in ``/proc``."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_CLONE_NEWNET = 0x40000000


def path_of(netns: str) -> Path:
    """The file of a namespace."""
    return Path(netns) if "/" in netns else Path("/run/netns") / netns


def enter(netns: str) -> None:
    """Make the sockets that this thread opens from now on those of the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path_of(netns).open("rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), netns)
