"""recvmmsg(2) into the messages of a journal block."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

MSG_DONTWAIT: Final = 0x40
_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_uint,
    ctypes.c_int,
    ctypes.c_void_p,
]
_recvmmsg.restype = ctypes.c_int
_NOTHING: Final = {errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED}


def receive(fd: int, messages: int, count: int) -> int:
    """Take up to ``count`` datagrams without waiting; ``messages``: address of the first mmsghdr.

    Returns how many were taken, 0 when none were there. Other errors are raised as OSError. The
    interpreter's lock is free while the kernel copies.
    """
    taken: int = _recvmmsg(fd, messages, count, MSG_DONTWAIT, None)
    if taken >= 0:
        return taken
    code = ctypes.get_errno()
    if code in _NOTHING:
        return 0
    raise OSError(code, os.strerror(code))
