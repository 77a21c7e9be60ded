"""``/v1/tokens``: make, list and revoke tokens."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.audit.watch import note
from api.caller import Role, caller
from api.cluster import Observed
from api.observer import Observer
from api.problems import Problem, ProblemDocument
from api.register.store import MOST
from api.tokens.record import NAME, TokenRecord, TokenView, digest_of, new_key, new_token

router = APIRouter(prefix="/v1/tokens", tags=["access"])

_DAY_NS = 86400 * 10**9
_UNWRITTEN: dict[int | str, dict[str, object]] = {
    503: {"model": ProblemDocument, "description": "The register cannot be written"}
}


class NewToken(BaseModel):
    """What the token is to be."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=f"^{NAME}$", examples=["ci"], description="Who is to use it")
    role: Role = Field(examples=["operator"])
    days: int | None = Field(
        None, ge=1, le=3650, examples=[90], description="For which it is good; null: until revoked"
    )


class CreatedToken(TokenView):
    """The only answer that ever has it."""

    token: str = Field(examples=["tandem_…"], description="Keep it: it is not shown again")


_EXAMPLE = TokenView(
    id="20260101T010000-9f86d081",
    name="ci",
    role="operator",
    created_ns=1767229200000000000,
    created_by="local token",
)


class TokensView(BaseModel):
    """Tokens of the cluster; that of `api.token_file` and those of the nodes are not among them."""

    tokens: list[TokenView] = Field(examples=[[_EXAMPLE.model_dump()]])


@router.get("", summary="All tokens")
async def tokens(observed: Observed) -> TokensView:
    """Oldest first; revoked ones are gone, expired ones stay until they are revoked."""
    return TokensView(tokens=[record.view(key, observed.clock()) for key, record in _all(observed)])


@router.post(
    "",
    summary="Make a token",
    status_code=HTTPStatus.CREATED,
    responses={
        409: {
            "model": ProblemDocument,
            "description": "The name is taken, there are too many, or tokens cannot be kept here",
        },
        **_UNWRITTEN,
    },
)
async def create(request: Request, observed: Observed, new: NewToken) -> CreatedToken:
    """Shown once, in this answer. All nodes that can be reached know it by then."""
    _require_register(observed)
    now = observed.clock()
    _refuse_another(observed, new.name)
    token = new_token()
    record = TokenRecord(
        name=new.name,
        role=new.role,
        sha256=digest_of(token),
        created_by=caller(request).name,
        created_ns=now,
        expires_ns=now + new.days * _DAY_NS if new.days else None,
    )
    key = new_key(now)
    await _put(request, observed, key, record.model_dump())
    note(request, token=key, name=new.name, role=new.role)
    return CreatedToken(token=token, **record.view(key, now).model_dump())


@router.delete(
    "/{id}",
    summary="Revoke a token",
    responses={404: {"model": ProblemDocument, "description": "No such token"}, **_UNWRITTEN},
)
async def revoke(
    request: Request,
    observed: Observed,
    key: Annotated[str, Path(alias="id", description="Or its name", max_length=80)],
) -> TokenView:
    """No node that can be reached takes it any more; one that cannot learns it when it is back."""
    for found, record in _all(observed):
        if key in (found, record.name):
            note(request, token=found, name=record.name)
            await _put(request, observed, found, None)
            return record.view(found, observed.clock())
    raise Problem(
        HTTPStatus.NOT_FOUND, "unknown", "There is no such thing", f"there is no token {key!r}"
    )


def _all(observed: Observer) -> list[tuple[str, TokenRecord]]:
    found = []
    for entry in observed.register.all("token"):
        try:
            found.append((entry.key, TokenRecord.of(entry)))
        except ValidationError:
            continue  # good for nothing on this version, see its log
    return found


def _require_register(observed: Observer) -> None:
    """Refuse where tokens would be lost, or would mean nothing."""
    config = observed.config
    if config.cluster is None:
        raise _conflict("no-register", "this node has no [cluster], so it keeps no tokens but "
                        "those of api.token_file")  # fmt: skip
    if config.api.token_file is None:
        raise _conflict("no-tokens", "this node asks nobody for a token: set api.token_file")


def _refuse_another(observed: Observer, name: str) -> None:
    if any(record.name == name for _, record in _all(observed)):
        raise _conflict("exists", f"there is a token {name!r}; revoke it, or take another name")
    every = sorted(key for kind, key in observed.register.every() if kind == "token")
    # the register would forget the first one without a word
    if len(every) >= MOST["token"] and observed.register.get("token", every[0]):
        raise _conflict("full", f"the oldest token, {every[0]}, would have to go: revoke it first")


def _conflict(kind: str, detail: str) -> Problem:
    return Problem(HTTPStatus.CONFLICT, kind, "The token cannot be made", detail)


async def _put(
    request: Request, observed: Observer, key: str, body: dict[str, object] | None
) -> None:
    await observed.register.put("token", key, body)
    await observed.replicator.told()
