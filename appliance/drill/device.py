"""Which interface has an address."""

from __future__ import annotations

import psutil  # type: ignore[import-untyped]


def device_of(address: str) -> str:
    """The name of the interface; raises ValueError where there is none."""
    for device, addresses in psutil.net_if_addrs().items():
        if any(a.address.partition("%")[0] == address for a in addresses):
            return str(device)
    raise ValueError(f"no interface has {address}, which [[cluster.node]] says is this node's")
