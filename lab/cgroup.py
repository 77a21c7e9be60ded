"""A control group for each node, of its own.

Without it ``systemd-nspawn --keep-unit`` puts all nodes into one, and their units into each other.
Both layouts are served: the unified one, and the one with a name=systemd hierarchy beside it.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PARENT = "tandem-lab"


def _hierarchies() -> list[Path]:
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return [path for path in (ROOT / "systemd", ROOT / "unified") if path.is_dir()]


def enter(name: str) -> None:
    """Move this process into the group ``name``; made where missing."""
    for hierarchy in _hierarchies():
        group = hierarchy / PARENT / name
        group.mkdir(parents=True, exist_ok=True)
        (group / "cgroup.procs").write_text(str(os.getpid()))


def remove(name: str) -> None:
    """Remove the group and all below it, as soon as its processes are gone."""
    for hierarchy in _hierarchies():
        top = hierarchy / PARENT / name
        for _ in range(50):
            # what a node has made lies below; the deepest first
            for path, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            if not top.exists():
                break
            time.sleep(0.02)
        with contextlib.suppress(OSError):  # other nodes have theirs there
            (hierarchy / PARENT).rmdir()
