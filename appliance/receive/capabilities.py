"""Capabilities of this process: for large receive buffers, and for nothing else (capabilities(7)).

The supervisor reads nothing that comes from the network, so it may keep them for listeners that are
opened while it runs, out of effect meanwhile. Its children give them up for good.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_VERSION_3: Final = 0x20080522
_EFFECTIVE: Final = (0, 3)
_PERMITTED: Final = (1, 4)
_Words = ctypes.c_uint32 * 6
"""Effective, permitted, inheritable: twice, for the lower and the upper half."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def drop() -> None:
    """Give up all capabilities. Root keeps its own: it asked for them."""
    if os.geteuid() != 0:
        _clear_ambient()
        _call("capset", _Words())


def set_aside() -> None:
    """Put all capabilities out of effect, also for programs that are executed; see :func:`raised`.

    Root keeps its own in effect.
    """
    if os.geteuid() != 0:
        _clear_ambient()
        _call("capset", _permitted())


@contextmanager
def raised() -> Iterator[None]:
    """Within this, those that were set aside are in effect."""
    if os.geteuid() == 0:
        yield
        return
    words = _permitted()
    for effective, permitted in zip(_EFFECTIVE, _PERMITTED, strict=True):
        words[effective] = words[permitted]
    _call("capset", words)
    try:
        yield
    finally:
        _call("capset", _permitted())


def _permitted() -> Any:
    """What this process may put into effect, with nothing in effect or inheritable."""
    have, words = _Words(), _Words()
    _call("capget", have)
    for permitted in _PERMITTED:
        words[permitted] = have[permitted]
    return words


def _clear_ambient() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0:
        _fail()


def _call(name: str, words: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(ctypes.byref(_Header(_VERSION_3, 0)), words) != 0:
        _fail()


def _fail() -> None:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code))
