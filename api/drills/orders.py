"""Orders for whoever sends a drill's load, and what they hand in: any node does for both."""

from __future__ import annotations

from pydantic import ValidationError

from api.drills.model import Order, Sent
from api.register.store import Register
from appliance.drill.sendlog import SendLog

_NEWEST = 8
"""Operations that are looked at; only one drill runs at a time."""


def order_for(register: Register, source: str) -> Order | None:
    """What ``source`` is to send now; None where nothing, or it has begun to."""
    for entry in register.all("operation")[-_NEWEST:]:
        body = entry.body or {}
        order = body.get("figures", {}).get("order")
        if body.get("kind") != "drill" or body.get("state") != "running" or not order:
            continue
        try:
            found = Order.model_validate(order)
        except ValidationError:  # of another version
            continue
        if found.source == source and not begun(register, found.id):
            return found
    return None


def begun(register: Register, id_: str) -> bool:
    """Whether the load of a drill is being sent, or has been."""
    return register.get("load", f"{id_}-begun") is not None or sent(register, id_) is not None


def sent(register: Register, id_: str) -> Sent | None:
    """What was handed in; None where nothing was yet."""
    entry = register.get("load", f"{id_}-sent")
    return None if entry is None else Sent.model_validate(entry.body)


async def note_begun(register: Register, id_: str) -> None:
    """The load is being sent from now on. Raises :class:`NotWritten`."""
    await register.put("load", f"{id_}-begun", {})


async def hand_in(register: Register, id_: str, what: Sent) -> None:
    """The load has been sent, or cannot be. Raises :class:`NotWritten`, ValueError."""
    if what.log is not None:
        read_log(what)
    await register.put("load", f"{id_}-sent", what.model_dump())


def read_log(what: Sent) -> SendLog:
    """The log that was handed in; raises ValueError."""
    try:
        return SendLog.read(what.log or {})
    except (KeyError, TypeError) as error:
        raise ValueError(str(error)) from None
