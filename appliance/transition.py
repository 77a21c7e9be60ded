"""From one configuration to the next, while the collector runs and without losing a datagram.

Each step begins when the one before is complete, and no step waits::

    open      listeners that are new; if one cannot be opened, all stays as it was
    replace   workers, one after the other: each new one takes over from an old one
    prove     new listeners by canaries, and those that go no longer
    leave     listeners that go take nothing any more, and workers empty them
    close     them, and replace workers once more, so that nobody has them

What workers do not use replaces none of them: retention is for the maintenance process, names are
for those who look at flow records.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from appliance.config import Config
from appliance.health.pulse import Pulse
from appliance.pool import Pool
from appliance.receive import capabilities
from appliance.receive.listeners import Listeners, endpoint_of
from appliance.receive.sockets import ListenError
from appliance.settings.changes import for_maintenance, for_workers, pending_restart, usable

log = logging.getLogger(__name__)

RETRY_SECONDS = 10.0
"""Until a listener that could not be opened is tried again."""
SLOW_SECONDS = 30.0
"""A listener that is not empty after so long is worth a word."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    config: Config
    version: int
    """Of the settings in it."""
    forced: bool
    """Replace workers in any case: files that the configuration names may have changed."""


class Transition:
    """Keeps the configuration in force, and brings about the one that is wanted."""

    def __init__(
        self,
        config: Config,
        pool: Pool,
        listeners: Listeners,
        pulse: Pulse | None,
        replace_maintenance: Callable[[], None],
    ) -> None:
        """``config``: what the collector began with."""
        self.config = config
        """What processes that are started now are given."""
        self._started = config
        self._pool, self._listeners, self._pulse = pool, listeners, pulse
        self._replace_maintenance = replace_maintenance
        self._version = 0
        self._next: _Wanted | None = None
        self._unusable = ""
        """What is wrong with what the follower has found last."""
        self._stuck = ""
        """Why the change at hand does not go on."""
        self._pending: list[str] = []
        self._not_before = 0.0
        self._since: float | None = None
        """When the change at hand began."""
        self._sha256, self._version_in_force = config.sha256(), 0
        if pulse is not None:
            pulse.admit(listeners.groups)
            pulse.show(listeners.groups)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do soon."""
        return self._since is not None or self._next is not None

    def hear(self, message: dict[str, Any]) -> None:
        """What the follower has found: see :func:`appliance.follow.look`."""
        for error in message["errors"]:
            log.error("%s", error)
        if message["errors"]:
            log.error("the configuration in force stays")
            self._unusable, self._next = "; ".join(message["errors"]), None
            return
        found = Config.model_validate(message["config"])
        self._pending = pending_restart(self._started, found)
        for key in self._pending:
            log.warning("%s cannot change without a restart", key)
        forced = message["asked"] or (self._next is not None and self._next.forced)
        wanted = _Wanted(usable(self._started, found), message["version"], forced)
        self._unusable = self._stuck = ""
        self._not_before = 0.0
        self._next = wanted if wanted != _Wanted(self.config, self._version, False) else None

    def step(self) -> None:
        """Do what can be done now."""
        if not self.busy or not self._pool.settled or self._pool.replace_one():
            return
        now = time.monotonic()
        if now < self._not_before:
            return
        try:
            if self._next is None or not self._begin(self._next):
                self._leave()
            self._stuck = ""
        except ListenError as error:
            if self._stuck != str(error):
                log.error("%s; the configuration in force stays", error)
            self._stuck, self._not_before = str(error), now + RETRY_SECONDS

    def _begin(self, wanted: _Wanted) -> bool:
        """Open what is new, and say which processes have to be replaced; False: not yet."""
        names = {str(endpoint_of(listener)) for listener in wanted.config.listener}
        if names & self._listeners.leaving:
            return False
        with capabilities.raised():
            self._listeners.add(wanted.config)
        if self._pulse is not None:
            self._pulse.admit(self._listeners.groups)
        for name in self._listeners.streams.keys() - names:
            self._listeners.close(name)  # its connections end with the worker that has them
        before, self._next = self.config, None
        self.config = self._pool.config = wanted.config
        self._version = wanted.version
        self._since = time.monotonic()
        if wanted.forced or for_workers(before) != for_workers(self.config):
            self._pool.generation += 1
        if for_maintenance(before) != for_maintenance(self.config):
            self._replace_maintenance()
        return True

    def _leave(self) -> None:
        """All workers have what is new: let go of what nobody wants any more."""
        opened = self._listeners
        names = {str(endpoint_of(listener)) for listener in self.config.listener}
        going = opened.groups.keys() - names - opened.leaving
        if self._pulse is not None and self._since is not None:
            self._pulse.show(names & opened.groups.keys())
        for name in going:
            opened.leave(name)
        if going or not opened.drained():
            # a datagram may be on its way into a socket just now; none waits for long, but on a
            # full disk
            return
        if opened.leaving:
            for name in list(opened.leaving):
                opened.close(name)
            self._pool.generation += 1
            return
        self._in_force()

    def _in_force(self) -> None:
        if self._since is not None:
            took = time.monotonic() - self._since
            log.info(
                "configuration in force after %.1f s, settings version %d", took, self._version
            )
        self._since = None
        self._sha256, self._version_in_force = self.config.sha256(), self._version

    def _problem(self) -> str:
        waits = self._since is not None and time.monotonic() - self._since > SLOW_SECONDS
        if self._listeners.leaving and waits:
            names = ", ".join(sorted(self._listeners.leaving))
            return f"{names} cannot be closed yet: what waits in it cannot be received"
        return self._unusable or self._stuck

    def report(self) -> dict[str, Any]:
        """The node document's part: what is in force, and what is not."""
        return {
            "config_sha256": self._sha256,
            "settings_version": self._version_in_force,
            "settings_problem": self._problem(),
            "pending_restart": self._pending,
        }
