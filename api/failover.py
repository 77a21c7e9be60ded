"""When a VIP came to this node or left it, and why.

The kernel says when. Why is told by what was the matter, on this node or on the one that had the
VIP, shortly before or after: a peer that was killed is known to be gone only a moment later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from api.history import History
from api.views import NodeView, Transition

_OWN_NS = 5 * 10**8
_PEERS_NS = 25 * 10**8
"""How long before a transition what was the matter, here or on a peer, may be its cause: about as
long as the news of its end takes."""
_AFTER_NS = 4 * 10**9
"""How long after a transition its cause may become known."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is the matter with a node; the cause of a transition that follows."""

    node: str
    cause: str
    detail: str = ""
    vip: str | None = None
    """None: all of them."""
    told: bool = False
    """Whether it is known from asking peers."""


_OWN = ("drain", "health", "keepalived stopped", "partition healed", "lower priority advert")
_PEERS = ("peer draining", "peer unhealthy", "keepalived stopped", "peer unreachable")
"""Causes, the most telling first, of losing a VIP and of gaining one."""
_TOGETHER_NS = 2 * 10**9
"""Two nodes' transitions of a VIP that are no further apart are one move of it."""
_SEEN_FROM_THE_OTHER = {"drain": "peer draining", "health": "peer unhealthy",
                        "keepalived stopped": "keepalived stopped"}  # fmt: skip
"""What the node that lost a VIP says of it, for the one that gained it."""


def troubles_of(view: NodeView, own: bool) -> list[Trouble]:
    """What a node says is the matter with itself."""
    name, told = view.name, not own
    found: list[tuple[str, str, str | None]] = []
    drain = ("drain", "") if own else ("peer draining", name)
    found += [(*drain, None)] if view.drain.node else []
    found += [(*drain, vip) for vip in view.drain.vips]
    if view.health is not None and view.health.state != "ok":
        state = view.health.state
        sick = ("health", state) if own else ("peer unhealthy", f"{name}: {state}")
        found.append((*sick, None))
    if view.keepalived is not None and view.keepalived.up is False:
        found.append(("keepalived stopped", "" if own else name, None))
    return [Trouble(name, cause, detail, vip, told) for cause, detail, vip in found]


class Tracker:
    """Notes transitions and troubles, and puts them together."""

    def __init__(self, name: str, history: History, clock: Callable[[], int]) -> None:
        self.history = history
        self.count: Counter[str] = Counter()
        """Transitions by VIP since the start of the API."""
        self._name = name
        self._clock = clock
        self._troubles: dict[Trouble, int] = {}
        self._holders: dict[str, str] = {}
        self._open: list[tuple[Transition, str | None]] = []
        self._losses: list[Transition] = []

    def changed(self, vip: str, held: bool, time_ns: int, first: bool) -> None:
        """The kernel has, or no longer has, the addresses of ``vip``."""
        if first and not held:
            return
        before = "unknown" if first else "standby" if held else "active"
        transition = Transition(
            time_ns=time_ns,
            node=self._name,
            vip=vip,
            before=before,
            after="active" if held else "standby",
            cause="start" if first else "unknown",
        )
        self.history.put(transition)
        if not first:
            self.count[vip] += 1
            self._open.append((transition, self._holders.get(vip)))
        if held:
            self._holders[vip] = self._name

    def elsewhere(self, node: str, vip: str) -> None:
        """The peer ``node`` says that it holds ``vip``."""
        self._holders[vip] = node

    def lost(self, losses: Iterable[Transition]) -> None:
        """What peers say of when and why they lost VIPs."""
        self._losses = list(losses)

    def trouble(self, trouble: Trouble) -> None:
        """Something is the matter now."""
        self._troubles[trouble] = self._clock()

    def tick(self) -> None:
        """Look for causes; to be called several times a second."""
        now = self._clock()
        still = []
        for transition, holder in self._open:
            cause, detail = self._cause(transition, holder)
            if (cause, detail) != (transition.cause, transition.detail):
                transition = transition.model_copy(update={"cause": cause, "detail": detail})
                self.history.put(transition)
            if now - transition.time_ns < _AFTER_NS:
                still.append((transition, holder))
        self._open = still
        self._troubles = {
            trouble: seen
            for trouble, seen in self._troubles.items()
            if now - seen < _PEERS_NS + _AFTER_NS
        }

    def _cause(self, transition: Transition, holder: str | None) -> tuple[str, str]:
        """Why ``transition`` was; ``holder``: who had the VIP before, if anybody."""
        gained = transition.after == "active"
        if gained and holder is None:
            return "start", "no node had it"
        if gained and holder and (said := self._said(transition, holder)):
            return said
        suspect, order = (holder, _PEERS) if gained else (self._name, _OWN)
        near = [
            trouble
            for trouble, seen in self._troubles.items()
            if trouble.node == suspect
            and trouble.cause in order
            and trouble.vip in (None, transition.vip)
            and seen >= transition.time_ns - (_PEERS_NS if trouble.told else _OWN_NS)
        ]
        found = min(near, key=lambda t: order.index(t.cause), default=None)
        known = transition.cause
        # a more telling cause may become known later
        if found is None or (known in order and order.index(known) <= order.index(found.cause)):
            return known, transition.detail
        return found.cause, found.detail

    def _said(self, transition: Transition, holder: str) -> tuple[str, str] | None:
        """What ``holder`` itself says of why it lost what this node gained."""

        def apart(loss: Transition) -> int:
            return abs(loss.time_ns - transition.time_ns)

        losses = [t for t in self._losses if (t.node, t.vip) == (holder, transition.vip)]
        loss = min(losses, key=apart, default=None)
        if loss is None or loss.cause not in _SEEN_FROM_THE_OTHER or apart(loss) > _TOGETHER_NS:
            return None
        detail = f"{holder}: {loss.detail}" if loss.detail else holder
        return _SEEN_FROM_THE_OTHER[loss.cause], detail
