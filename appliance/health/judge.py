"""What a collector's answers mean: a state machine without I/O and without a clock of its own.

Each look at the collector gives a :class:`Sight` of every shard. From what is wrong with them, and
for how long, follows the state of the node and the value that keepalived adds to its priority. A
value becomes worse once a cause has lasted for its ``patience``, and good again only after
continuous proof for as long as the state that set it asks: a node that comes and goes is worse than
one that is away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """How the collector of this node does."""

    OK = "ok"
    """Every shard answers, and stores."""
    STARTING = "starting"
    """A collector, or a part of it, that has not answered yet."""
    DISK_FULL = "disk_full"
    """It answers, but cannot store."""
    HUNG = "hung"
    """A process that serves a shard is there and does not answer."""
    KILLED = "killed"
    """No process serves a shard that was served before."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a state sets the value of the node."""

    value: int
    """Added to keepalived's priority. Not a fault: of two sick nodes one still holds the VIP."""
    patience: float
    """Seconds that the cause must last before the value is set."""
    proof: float
    """Seconds of continuous proof before the value is that of ``ok`` again."""


RESTART_SECONDS: Final = 5.0
"""How long a restart may take: meanwhile sockets are kept, and datagrams wait in them."""

RULES: Final = {
    State.OK: Rule(0, 0.0, 0.0),
    State.STARTING: Rule(-150, RESTART_SECONDS, 2.0),
    State.DISK_FULL: Rule(-50, 2.0, 5.0),
    State.HUNG: Rule(-150, 0.5, 2.0),
    State.KILLED: Rule(-150, RESTART_SECONDS, 2.0),
}
"""The table of states; ``hung_seconds`` of the configuration is the patience of ``hung``."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a shard; times are seconds."""

    served: bool
    """Whether a process serves it now."""
    known: bool
    """Whether it has ever answered."""
    proven: bool
    """Whether it has answered since the process that serves it began to."""
    overdue: float
    """For how long an answer has been due; 0 while the last canary may still be on its way."""
    unproven: float
    """Since the last answer, of whichever process."""
    error: int = 0
    """Why it cannot store; 0 when it can."""
    error_lasted: float = 0.0
    where: str = ""
    """What cannot be written: ``journal`` or ``store``."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that is wrong. ``reason``: a clause for an operator."""

    state: State
    lasted: float
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of the node after a look."""

    state: State
    value: int
    reason: str
    """A sentence for an operator."""


def causes(sights: Sequence[Sight], rules: dict[State, Rule]) -> Iterator[Cause]:
    """What is wrong with the shards."""
    for k, sight in enumerate(sights):
        if sight.error:
            text = f"shard {k} cannot write its {sight.where}: {os.strerror(sight.error)}"
            yield Cause(State.DISK_FULL, sight.error_lasted, text)
        if not sight.served:
            state = State.KILLED if sight.known else State.STARTING
            text = f"no process serves shard {k}, for {sight.unproven:.1f} s"
            yield Cause(state, sight.unproven, text)
            continue
        if not sight.proven:
            text = f"shard {k} has not answered yet, for {sight.unproven:.1f} s"
            yield Cause(State.STARTING, sight.unproven, text)
            # a process that has just begun, or a watcher that has: both need a fair chance
            continue
        # without room in its journal a shard cannot answer, although it is well
        if sight.overdue > rules[State.HUNG].patience and not sight.error:
            text = f"shard {k} does not answer, for {sight.overdue:.1f} s"
            yield Cause(State.HUNG, sight.overdue, text)


class Judge:
    """Keeps the state; :meth:`judge` is called once a look, with a time that never goes back."""

    def __init__(self, hung_seconds: float, value: int) -> None:
        """``value``: what is in force already, set by a process before this one."""
        hung = replace(RULES[State.HUNG], patience=hung_seconds)
        self.rules = {**RULES, State.HUNG: hung}
        self.state = State.STARTING
        self._in_force = next(
            (s for s, rule in self.rules.items() if rule.value == value), State.STARTING
        )
        """The state that set the value."""
        self._proven_since: float | None = None

    @property
    def value(self) -> int:
        """What keepalived adds to the node's priority."""
        return self.rules[self._in_force].value

    def judge(self, now: float, sights: Sequence[Sight]) -> Verdict:
        """The verdict after a look at all shards, at ``now`` (seconds)."""
        found = list(causes(sights, self.rules))
        ripe = [c for c in found if c.lasted >= self.rules[c.state].patience]
        if found:
            self._proven_since = None
        if ripe:
            worst = min(ripe, key=lambda c: (self.rules[c.state].value, -c.lasted))
            self.state = self._in_force = worst.state
            return self._verdict(worst.reason)
        if found:
            # not for long enough to count; but a restart is worth a name
            young = max(found, key=lambda c: c.lasted)
            if young.state in (State.STARTING, State.KILLED):
                self.state = young.state
            return self._verdict(young.reason)
        if self._proven_since is None:
            self._proven_since = now
        left = self._proven_since + self.rules[self._in_force].proof - now
        if left > 0:
            return self._verdict(f"all shards answer; ok in {left:.1f} s if they go on")
        self.state = self._in_force = State.OK
        return self._verdict("all shards answer")

    def _verdict(self, reason: str) -> Verdict:
        return Verdict(self.state, self.value, reason)
