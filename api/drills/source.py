"""A node as the source of a drill's load: a process of its own sends it, so that its pace is even.

The node has the VIP on its lo, so the socket is bound to the interface with the node's address:
then datagrams go out to whoever holds the VIP.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Final

from api.drills.model import Order, Sent
from api.drills.orders import hand_in, note_begun, order_for
from api.observer import Observer
from api.register.store import NotWritten
from appliance.drill.device import device_of

log = logging.getLogger(__name__)

_PERIOD: Final = 0.25
_MORE_SECONDS: Final = 10.0


async def send_as_ordered(observed: Observer) -> None:
    """Send what is ordered from this node until cancelled."""
    cluster = observed.config.cluster
    address = cluster.address_of(observed.name) if cluster else None
    if address is None:
        return
    while True:
        await asyncio.sleep(_PERIOD)
        order = order_for(observed.register, observed.name)
        if order is None:
            continue
        try:
            await note_begun(observed.register, order.id)
            await hand_in(observed.register, order.id, await _send(order, device_of(str(address))))
        except (NotWritten, ValueError) as error:
            log.error("the load of drill %s: %s", order.id, error)


async def _send(order: Order, device: str) -> Sent:
    wanted = order.model_dump() | {"device": device}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "appliance.drill"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(order.seconds + _MORE_SECONDS):
            out, err = await child.communicate(json.dumps(wanted).encode())
    except TimeoutError:
        child.kill()
        return Sent(problem="the process that sends it hangs")
    if child.returncode:
        return Sent(problem=err.decode(errors="replace").strip()[-500:] or "no reason given")
    return Sent(log=json.loads(out))
