"""``/v1/drill-clients``: for programs that send the load of drills, on whatever machine."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Path, Request, Response
from pydantic import BaseModel, Field

from api.cluster import Observed
from api.drills.model import Order, Sent
from api.drills.orders import hand_in, note_begun, order_for
from api.operations.operations import Operations
from api.operations.routes import Known
from api.problems import Problem, ProblemDocument

router = APIRouter(prefix="/v1/drill-clients", tags=["drills"])

_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
Name = Annotated[str, Path(pattern=_NAME, description="What the client calls itself")]
Id = Annotated[str, Path(alias="id", max_length=80)]
_NONE: dict[int | str, dict[str, object]] = {
    404: {"model": ProblemDocument, "description": "There is no such drill"},
    503: {"model": ProblemDocument, "description": "It cannot be written"},
}


class Orders(BaseModel):
    """What a client is to do."""

    order: Order | None = Field(description="The load to send now; null: nothing")


def _its_own(known: Operations, name: str, id_: str) -> None:
    """Refuse what was ordered from somebody else."""
    order = known.get(id_).figures.get("order") or {}
    if order.get("source") != name:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "unknown",
            "There is no such thing",
            f"drill {id_} has ordered nothing from {name}",
        )


@router.get("/{name}/order", summary="What a client is to send")
async def order(request: Request, observed: Observed, name: Name) -> Orders:
    """Asked again and again; a client that has not asked for 5 s is not there any more."""
    if name == observed.name or name in observed.peers:
        raise Problem.parameter("name", "that of a node")
    observed.clients.heard(name)
    return Orders(order=order_for(observed.register, name))


@router.put(
    "/{name}/loads/{id}/begun", summary="The load is being sent", status_code=204, responses=_NONE
)
async def begun(observed: Observed, known: Known, name: Name, id_: Id) -> Response:
    """Before its first datagram. Another time it is no error."""
    _its_own(known, name, id_)
    await note_begun(observed.register, id_)
    await observed.replicator.told()
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.put(
    "/{name}/loads/{id}", summary="What was sent, and when", status_code=204, responses=_NONE
)
async def loads(
    observed: Observed, known: Known, name: Name, id_: Id, what: Annotated[Sent, Body()]
) -> Response:
    """Any node takes it. Another time it is no error."""
    _its_own(known, name, id_)
    try:
        await hand_in(observed.register, id_, what)
    except ValueError as error:
        raise Problem.parameter("log", str(error)) from None
    await observed.replicator.told()
    return Response(status_code=HTTPStatus.NO_CONTENT)
