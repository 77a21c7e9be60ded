"""What operations ask of nodes, this one included: drains, who holds a VIP, and by which clock."""

from __future__ import annotations

from http import HTTPStatus

from pydantic import ValidationError

from api.drain import drain_here, undrain_here
from api.observer import Observer
from api.operations.operations import Failed
from api.peers import PeerFailed
from api.problems import Problem
from api.views import DrainAnswer, FailoverView, NodeView


class Nodes:
    """All nodes of the cluster, by name."""

    def __init__(self, observed: Observer) -> None:
        self._observed = observed

    def views(self) -> tuple[dict[str, NodeView], dict[str, str]]:
        """What the nodes say, and why some say nothing."""
        peers = self._observed.peers.values()
        views = {self._observed.name: self._observed.view()}
        views |= {peer.name: peer.view for peer in peers if peer.view is not None}
        return views, {p.name: f"does not answer: {p.problem}" for p in peers if p.view is None}

    async def view(self, node: str) -> NodeView | None:
        """What ``node`` says now; None where it does not."""
        if node == self._observed.name:
            return self._observed.view()
        try:
            answer = await self._observed.peers[node].request("GET", "/v1/node")
            return NodeView.model_validate_json(answer.content)
        except (PeerFailed, ValidationError):
            return None

    # ── drains ────────────────────────────────────────────────────────────────────────────────

    async def drain(self, node: str, vip: str, seconds: float, done_for: dict[str, str]) -> int:
        """Drain it, if it is not drained; when that was, by its clock. Raises :class:`Failed`.

        ``done_for``: the header that says for whom (:func:`api.passed_on.header_of`).
        """
        observed = self._observed
        try:
            if node == observed.name:
                if observed.drain.view.of(vip):
                    return observed.clock()
                until = observed.clock() + int(seconds * 1e9)
                return (await drain_here(observed, vip, until)).time_ns
            peer = observed.peers[node]
            if peer.view is not None and peer.view.drain.of(vip):
                return peer.view.time_ns
            answer = await peer.request(
                "PUT",
                f"/v1/nodes/{node}/drain",
                {"vip": vip, "force": "true", "seconds": f"{seconds:g}"},
                headers=done_for,
            )
            answer.raise_for_status()
            return DrainAnswer.model_validate_json(answer.content).time_ns
        except Problem as problem:
            raise Failed(f"{node} cannot be drained: {problem.detail}") from None
        except PeerFailed as failed:
            raise Failed(f"{node} cannot be drained: {failed}") from None

    async def undrain(self, nodes: list[str], vip: str, done_for: dict[str, str]) -> None:
        """End what :meth:`drain` began; where that cannot be, it ends by itself."""
        observed = self._observed
        for node in nodes:
            try:
                if node == observed.name:
                    await undrain_here(observed, vip, timed=True)
                else:
                    path = f"/v1/nodes/{node}/drain"
                    await observed.peers[node].request(
                        "DELETE", path, {"vip": vip, "timed": "true"}, headers=done_for
                    )
            except (Problem, PeerFailed):
                continue

    # ── VIPs ──────────────────────────────────────────────────────────────────────────────────

    async def held_since(self, node: str, vip: str) -> int | None:
        """Since when ``node`` holds ``vip``, by its clock; None where it does not."""
        observed = self._observed
        if node == observed.name:
            return observed.addresses.since_ns(vip) if observed.addresses.held(vip) else None
        try:
            answer = await observed.peers[node].request("GET", "/v1/failover", {"limit": "1"})
            view = FailoverView.model_validate_json(answer.content)
        except (PeerFailed, ValidationError):
            return None
        found = next((v for v in view.vips if v.vip == vip), None)
        return found.since_ns if found and found.held else None

    # ── clocks ────────────────────────────────────────────────────────────────────────────────

    def offset_ns(self, node: str) -> int:
        """Its clock minus that of this node."""
        peer = self._observed.peers.get(node)
        offset = peer.clock_offset_seconds if peer else None
        return int((offset or 0.0) * 1e9)

    def here(self, node: str, time_ns: int) -> int:
        """A time of ``node`` by the clock of this one."""
        return time_ns - self.offset_ns(node)

    def uncertainty_ms(self, *nodes: str) -> float:
        """How far :meth:`here` can be from the truth, for all of them together."""
        peers = [self._observed.peers[n] for n in nodes if n in self._observed.peers]
        return round(sum(p.clock_uncertainty_seconds for p in peers) * 1e3, 1)


def refused(kind: str, title: str, detail: str) -> Problem:
    """It cannot be done now."""
    return Problem(HTTPStatus.CONFLICT, kind, title, detail)
