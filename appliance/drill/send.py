"""Sending the load that a drill orders.

``python -m appliance.drill`` reads an order and writes the log, both as JSON.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from appliance.drill.sender import Sender


def send(order: Mapping[str, Any]) -> dict[str, Any]:
    """Send it, and say what was sent and when (SendLog.document). Raises OSError."""
    sender = Sender(
        str(order["address"]),
        int(order["port"]),
        ("ipfix",),
        run=int(order["domain"]),
        rate=int(order["rate"]),
        records=int(order["records"]),
        device=str(order.get("device", "")),
    )
    gc.disable()  # its pauses would be seen as gaps
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        return sender.send(float(order["seconds"])).document()
    finally:
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        gc.enable()
        sender.close()
