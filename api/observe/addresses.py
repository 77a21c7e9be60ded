"""Which VIPs this node holds, by the kernel's own account: addresses on any interface but lo."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable

from pyroute2 import AsyncIPRoute  # type: ignore[import-untyped]
from pyroute2.netlink import rtnl  # type: ignore[import-untyped]

from api.observe.source import PATIENCE
from appliance.config import Vip

log = logging.getLogger(__name__)

_PERIOD = 1.0
"""Seconds after which it is looked up anew, whatever events came: they can be lost."""
_GROUPS = rtnl.RTMGRP_IPV4_IFADDR | rtnl.RTMGRP_IPV6_IFADDR

Changed = Callable[[str, bool, int, bool], None]
"""Called with the VIP, whether it is held, since when, and whether that is the first look."""


class Addresses:
    """Follows the kernel's addresses on the event loop."""

    def __init__(
        self, vips: Iterable[Vip], changed: Changed, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._wanted = {vip.name: frozenset(map(str, vip.addresses)) for vip in vips}
        self._changed = changed
        self._clock = clock
        self._present: dict[str, frozenset[str]] = {}
        self._held: dict[str, tuple[bool, int]] = {}
        self._looked_ns = 0
        self.problem = "the kernel was not asked yet"

    def held(self, vip: str) -> bool | None:
        """Whether all addresses of ``vip`` are here; None: not known."""
        if not self._fresh or vip not in self._held:
            return None
        return self._held[vip][0]

    def partly(self, vip: str) -> bool:
        """Whether some addresses of ``vip`` are here and others are not."""
        present = self._present.get(vip, frozenset())
        return self._fresh and bool(present) and present != self._wanted[vip]

    def since_ns(self, vip: str) -> int | None:
        """Since when it is as :meth:`held` says, as far as this process knows."""
        return self._held[vip][1] if vip in self._held else None

    @property
    def _fresh(self) -> bool:
        return self._clock() - self._looked_ns <= PATIENCE * 1e9

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                async with AsyncIPRoute() as events, AsyncIPRoute() as asked:
                    await events.bind(groups=_GROUPS)
                    while True:
                        async with asyncio.timeout(_PERIOD):
                            await self._look(asked)
                        await self._event(events)
            except Exception as error:
                # the socket can overflow, or the library stumble: begin anew
                self.problem = f"the kernel's addresses cannot be read: {error!r}"
                log.warning("%s", self.problem)
            await asyncio.sleep(_PERIOD)

    async def _look(self, asked: AsyncIPRoute) -> None:
        loopback = socket.if_nametoindex("lo")
        found = {
            message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
            async for message in await asked.get_addr()
            if message.get("index") != loopback
        }
        now = self._looked_ns = self._clock()
        self.problem = ""
        for vip, wanted in self._wanted.items():
            self._present[vip] = wanted & found
            held = self._present[vip] == wanted
            first = vip not in self._held
            if first or self._held[vip][0] != held:
                self._held[vip] = (held, now)
                self._changed(vip, held, now, first)

    async def _event(self, events: AsyncIPRoute) -> None:
        """Return when an address has come or gone, or after the period."""
        try:
            async with asyncio.timeout(_PERIOD):
                async for _ in events.get():
                    pass
        except TimeoutError:
            pass
