"""The service manager's side: notification, sockets handed over, the file-descriptor store.

sd_notify(3), sd_listen_fds(3) and systemd.service(5), FileDescriptorStoreMax=, in a few lines.
"""

from __future__ import annotations

import array
import logging
import os
import socket

log = logging.getLogger(__name__)

FIRST_FD = 3


def notify(*lines: str, fds: tuple[int, ...] = ()) -> bool:
    """Tell the service manager, e.g. ``READY=1``; False when there is none, or it does not hear."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
            sock.sendmsg(["\n".join(lines).encode()], [rights] if fds else [], 0, address)
    except OSError as error:
        # collecting does not depend on it
        log.warning("the service manager does not hear at %s: %s", path, error)
        return False
    return True


def watchdog() -> None:
    """Tell the service manager that this process is well, if it wants to hear that."""
    if "WATCHDOG_USEC" in os.environ:
        notify("WATCHDOG=1")


def store(name: str, sock: socket.socket) -> bool:
    """Keep ``sock`` in the file-descriptor store, so that it outlives this process.

    Names may have no colon (sd_notify(3), FDNAME=); the caller's name comes back by
    :func:`listen_fds`.
    """
    return notify("FDSTORE=1", f"FDNAME={name}", fds=(sock.fileno(),))


def forget(name: str) -> bool:
    """Remove all descriptors of ``name`` from the store."""
    return notify("FDSTOREREMOVE=1", f"FDNAME={name}")


def numbered(
    handed: list[tuple[str, socket.socket]],
) -> dict[str, dict[int, socket.socket]]:
    """Sockets that were handed over, by the part of their name before the dot and by their number.

    A socket unit hands over one without a number: it was bound first. Of two with one number the
    second takes the next that is free; one that is open and read by nobody would lose datagrams.
    """
    by_name: dict[str, dict[int, socket.socket]] = {}
    for whole, sock in handed:
        name, _, text = whole.partition(".")
        mine = by_name.setdefault(name, {})
        number = int(text) if text.isdigit() else 0
        while number in mine:
            number += 1
        mine[number] = sock
    return by_name


def listen_fds() -> list[tuple[str, socket.socket]]:
    """The sockets handed over at start, with their names; takes them from the environment."""
    pid = os.environ.pop("LISTEN_PID", "")
    count = int(os.environ.pop("LISTEN_FDS", "0") or 0)
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()):
        return []
    handed = []
    for i in range(count):
        fd = FIRST_FD + i
        os.set_inheritable(fd, False)
        handed.append((names[i] if i < len(names) else "", socket.socket(fileno=fd)))
    return handed
