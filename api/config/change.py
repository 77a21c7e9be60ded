"""Applying settings: node by node, those without a VIP first, and back again at the first failure.

Each node writes them to its own file, which its collector follows. They hold for the cluster once
all nodes that answer collect with them. Until then they are only a node's, and a node goes back to
what holds by itself (:mod:`api.config.follow`) should the API that does this die.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import Field, ValidationError

from api.config.kept import Version, current, keep
from api.config.node import NodeConfig
from api.observer import Observer
from api.operations.model import Kept
from api.operations.operations import Course, Failed
from api.passed_on import header_of
from api.peers import PeerFailed
from api.problems import Problem, ProblemDocument
from api.views import NodeView, View
from appliance.settings import Settings

CANDIDATE = "/v1/config/candidate"
_PERIOD = 0.2
_STEADY_SECONDS = 2.0
"""For so long a node has to be well with new settings: its health unit takes about a second to see
that it is not."""
_UNWELL_SECONDS = 4.0
"""For so long it may not be: its workers are replaced, and what it says may be of before."""


class Applied(View):
    """What a node answers to settings that it has written."""

    config_sha256: str = Field(description="Of its whole configuration with them")


class ConfigChange:
    """The action."""

    def __init__(self, observed: Observer, node: NodeConfig) -> None:
        self._observed = observed
        self._node = node

    def check(self, request: Mapping[str, Any]) -> None:
        """Raise a problem where it cannot be done now."""
        version = Version.model_validate(request["version"])
        held = current(self._observed.register).version
        if version.version != held + 1:
            raise Problem(
                HTTPStatus.PRECONDITION_FAILED,
                "changed",
                "The settings have changed since",
                f"version {held} holds; look at it, and make your change to that",
            )
        self._node.lay(version.settings)
        for name, view in self._views().items():
            if not view.ready:
                raise Problem(
                    HTTPStatus.CONFLICT,
                    "not-ready",
                    "A node does not collect",
                    f"{name}: {'; '.join(view.reasons)}; make it well first, or it would not be "
                    "known whether the settings are to blame",
                )

    async def run(self, request: Mapping[str, Any], course: Course) -> None:
        """Do it."""
        wanted = Version.model_validate(request["version"])
        before = current(self._observed.register).settings
        views = self._views()
        order = sorted(views, key=lambda name: (_vips(views[name]), name))
        for peer in self._observed.peers.values():
            if peer.name not in views:
                await course.say(
                    f"{peer.name} does not answer; it takes version {wanted.version} when it does"
                )
        done: list[str] = []
        done_for = header_of(course.operation.by, "admin", course.operation.id)
        try:
            for name in order:
                done.append(name)
                begun = time.monotonic()
                digest = await self._apply(name, wanted.settings, done_for)
                await self._in_force(name, digest, wanted.version)
                took = time.monotonic() - begun - _STEADY_SECONDS
                await course.say(
                    f"{name} collects with version {wanted.version}",
                    **{f"{name}_seconds": round(took, 2)},
                )
            held = wanted.model_copy(
                update={"time_ns": self._observed.clock(), "operation": course.operation.id}
            )
            await keep(self._observed.register, held)
            done.clear()
        except Problem as problem:
            raise Failed(problem.detail) from None
        finally:
            # also when the deadline ends this
            await asyncio.shield(self._back(done, before, done_for))
        await course.say(f"version {wanted.version} holds", version=wanted.version)

    async def settle(self, operation: Kept, undone: bool) -> tuple[bool, str]:
        """Tell by what holds now: only this node could have made it hold, and does no longer."""
        held = current(self._observed.register)
        if held.operation == operation.id:
            return True, f"version {held.version} holds"
        done_for = header_of(operation.by, "admin", operation.id)
        await self._back(list(self._views()), held.settings, done_for)
        return False, f"version {held.version} holds, as before"

    def _views(self) -> dict[str, NodeView]:
        """What the nodes that answer say, by name."""
        own = self._observed.view()
        peers = self._observed.peers.values()
        return {own.name: own} | {p.name: p.view for p in peers if p.view is not None}

    async def _apply(self, name: str, settings: Settings, done_for: dict[str, str]) -> str:
        """Let a node write them; the digest of its configuration with them."""
        if name == self._observed.name:
            return (await self._node.apply(settings)).sha256()
        try:
            answer = await self._observed.peers[name].request(
                "PUT", CANDIDATE, content=settings.model_dump_json().encode(), headers=done_for
            )
            if answer.is_success:
                return Applied.model_validate_json(answer.content).config_sha256
            reason = ProblemDocument.model_validate_json(answer.content).detail
        except (PeerFailed, ValidationError) as error:
            reason = str(error)
        raise Failed(f"{name} does not take them: {reason}")

    async def _in_force(self, name: str, digest: str, version: int) -> None:
        """Wait until a node has collected with them for a while."""
        steady: float | None = None
        unwell: float | None = None
        while steady is None or time.monotonic() - steady < _STEADY_SECONDS:
            await asyncio.sleep(_PERIOD)
            now = time.monotonic()
            view = self._views().get(name)
            trouble = _trouble(view)
            if view is None or view.collector is None or trouble:
                steady, unwell = None, unwell or now
                if now - unwell > _UNWELL_SECONDS:
                    raise Failed(f"{name} {trouble}")
                continue
            unwell = None
            said = view.collector
            uses = (said.config_sha256, said.settings_version) == (digest, version)
            steady = (steady or now) if uses else None

    async def _back(self, names: list[str], settings: Settings, done_for: dict[str, str]) -> None:
        """Give nodes what held before; one that does not answer goes back by itself."""
        for name in reversed(names):
            try:
                await self._apply(name, settings, done_for)
            except (Failed, Problem):
                continue


def _vips(view: NodeView) -> int:
    return sum(vip.held is True for vip in view.vips)


def _trouble(view: NodeView | None) -> str:
    """Why a node does not collect as it should; empty when it does."""
    if view is None:
        return "does not answer any more"
    if view.collector is not None and view.collector.settings_problem:
        return f"cannot use them: {view.collector.settings_problem}"
    return "" if view.ready else f"does not collect with them: {'; '.join(view.reasons)}"
