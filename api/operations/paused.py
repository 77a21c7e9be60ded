"""Whether the cluster is paused."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from api.problems import Problem
from api.register.store import Register
from api.views import PauseView

KEY: Final = "cluster"
"""Of the one entry of this kind."""


def pause_of(register: Register, now_ns: int) -> PauseView | None:
    """The pause, if there is one."""
    entry = register.get("pause", KEY)
    if entry is None:
        return None
    view = PauseView.model_validate(entry.body)
    return view if view.until_ns is None or now_ns < view.until_ns else None


def refuse_paused(register: Register, now_ns: int) -> None:
    """Raise a problem where the cluster is paused."""
    view = pause_of(register, now_ns)
    if view is not None:
        raise Problem(
            HTTPStatus.CONFLICT,
            "paused",
            "The cluster is paused",
            f"by {view.by}{f': {view.reason}' if view.reason else ''}; `tandem pause --undo`, "
            "or DELETE /v1/pause, ends that",
        )
