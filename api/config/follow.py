"""Each node's own part: whatever became of those who change settings, it uses what holds.

A node that was away while settings changed takes them when it is back. One that was given settings
which do not hold after all, because the API that applied them died, goes back.
"""

from __future__ import annotations

import asyncio
import logging

from api.config.kept import current
from api.config.node import NodeConfig
from api.operations.operations import Operations
from api.problems import Problem
from api.register.store import Register

log = logging.getLogger(__name__)

_PERIOD = 1.0


async def follow(
    register: Register, operations: Operations, node: NodeConfig, shared: bool
) -> None:
    """Do so until cancelled. ``shared``: whether there is a cluster, so that the register lasts."""
    if not shared:
        return
    said = ""
    while True:
        await asyncio.sleep(_PERIOD)
        wanted = current(register).settings
        if node.settings == wanted or operations.busy_with("config"):
            continue
        try:
            await node.apply(wanted)
            log.warning("version %d of the settings is used from now on", wanted.version)
            said = ""
        except Problem as problem:
            if problem.detail != said:
                log.error("version %d of the settings: %s", wanted.version, problem.detail)
            said = problem.detail
