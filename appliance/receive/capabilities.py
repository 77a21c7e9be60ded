"""Capabilities of this process: given up once they have served (capabilities(7))."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_VERSION_3: Final = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def drop() -> None:
    """Give up all capabilities, also those of children. Root keeps its own: it asked for them."""
    if os.geteuid() == 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    nothing = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: two words each
    if (
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0
        or libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), nothing) != 0
    ):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
