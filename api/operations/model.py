"""An operation, as it is answered and as all nodes keep it."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field

from api.views import View

Kind = Literal["config", "drill", "switchover"]
State = Literal["queued", "running", "succeeded", "failed", "unknown"]
ENDED: Final[frozenset[State]] = frozenset({"succeeded", "failed"})


class Event(View):
    """Something that happened in the course of an operation."""

    time_ns: int = Field(examples=[1767229200000000000], description="By the clock of `node`")
    text: str = Field(examples=["n2 holds v1"])


class Operation(View):
    """A long action."""

    id: str = Field(examples=["18bd2c7a5f3e1a00-5d41"], description="Sorts by time of creation")
    kind: Kind = Field(examples=["switchover"])
    state: State = Field(
        examples=["succeeded"],
        description="`unknown`: it was cut off, and nobody knows yet what became of it",
    )
    node: str = Field(examples=["n1"], description="The node that does it")
    by: str = Field(examples=["ansible"], description="Who began it")
    created_ns: int = Field(examples=[1767229200000000000])
    not_before_ns: int | None = Field(None, examples=[1767232800000000000])
    started_ns: int | None = Field(None, examples=[1767229200010000000])
    ended_ns: int | None = Field(None, examples=[1767229201000000000])
    deadline_seconds: float = Field(
        examples=[30], description="From its start; what has not succeeded by then is undone"
    )
    request: dict[str, Any] = Field(examples=[{"vip": "v1", "target": "n2"}])
    events: list[Event] = Field([], description="In the order of time")
    figures: dict[str, Any] = Field(
        {}, examples=[{"from": "n1", "to": "n2", "vip_move_ms": 12.4}], description="Measured"
    )
    problem: str = Field("", examples=[""], description="Why it failed, or is unknown")

    @property
    def ended(self) -> bool:
        """Whether nothing of it will change any more."""
        return self.state in ENDED


class Kept(Operation):
    """With what only nodes need."""

    idempotency: str = ""
    """Digest of who began it and their ``Idempotency-Key``; empty without one."""
    content: str = ""
    """Digest of kind and request."""
