"""The machine: load, memory, network, and the disk of the store."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from pydantic import BaseModel, Field


class Traffic(BaseModel):
    """What went through a network interface since the machine started."""

    received_bytes: int = Field(examples=[1732896000])
    transmitted_bytes: int = Field(examples=[8123400])


class HostState(BaseModel):
    """The machine."""

    load1: float = Field(examples=[0.42], description="Mean of the last minute")
    cpus: int = Field(examples=[2])
    memory_bytes: int = Field(examples=[4294967296])
    memory_available_bytes: int = Field(examples=[3221225472])
    uptime_seconds: int = Field(examples=[86400])
    interfaces: dict[str, Traffic] = Field(
        {}, examples=[{"host0": {"received_bytes": 1732896000, "transmitted_bytes": 8123400}}]
    )


class DiskState(BaseModel):
    """The file system of the store."""

    free_bytes: int = Field(examples=[500000000000])
    size_bytes: int = Field(examples=[1000000000000])


def host() -> HostState:
    """The machine now."""
    memory = psutil.virtual_memory()
    return HostState(
        load1=os.getloadavg()[0],
        cpus=os.cpu_count() or 1,
        memory_bytes=memory.total,
        memory_available_bytes=memory.available,
        uptime_seconds=max(0, int(time.time() - psutil.boot_time())),
        interfaces={
            name: Traffic(received_bytes=io.bytes_recv, transmitted_bytes=io.bytes_sent)
            for name, io in psutil.net_io_counters(pernic=True).items()
            if name != "lo"
        },
    )


def disk(data_dir: Path) -> DiskState:
    """The disk now; OSError where there is no such folder."""
    found = os.statvfs(data_dir)
    return DiskState(
        free_bytes=found.f_bavail * found.f_frsize, size_bytes=found.f_blocks * found.f_frsize
    )
