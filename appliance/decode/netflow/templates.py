"""Template state: which layout a template id means, per exporter, domain and session.

RFC 3954, section 9 and RFC 7011, section 8. A template's key is one integer: its scope (the source,
or for TCP the source within the session) and its 16-bit id. What depends on time order within a
batch is kept as a list of changes until the batch is done.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.decode.limits import Limits
from appliance.decode.netflow.layout import LayoutTable, build

I64 = NDArray[np.int64]

SESSION_SCOPES = 1 << 32
"""Scopes of TCP sessions are numbered from here; below it a scope is a source number."""

_ARRAYS = {
    "key": np.int64,
    "layout": np.int32,
    "exporter": np.int32,
    "uses": np.int64,
    "defined_ns": np.int64,
    "refreshed_ns": np.int64,
    "used_ns": np.int64,
}


@dataclass(slots=True)
class Change:
    """A definition or withdrawal within the batch at ``order``; layout numbers, -1 for none."""

    order: int
    before: int
    after: int
    exporter: int


@dataclass(slots=True)
class TemplateTable:
    """Slots of templates in arrays; a dict finds the slot of a key."""

    limits: Limits
    layouts: LayoutTable = field(default_factory=LayoutTable)
    changes: dict[int, list[Change]] = field(default_factory=dict)
    """Changes of this batch by key; cleared by :meth:`end_batch`."""
    evicted: dict[int, int] = field(default_factory=dict)
    """Templates dropped for a limit, by exporter, since the start."""
    generation: dict[int, int] = field(default_factory=dict)
    """Counts the changes of a scope."""
    revision: int = 0
    """Counts the changes of all."""
    _slots: dict[int, int] = field(default_factory=dict)
    _arrays: dict[str, NDArray[Any]] = field(
        default_factory=lambda: {name: np.zeros(256, dtype) for name, dtype in _ARRAYS.items()}
    )
    _size: int = 0
    _free: list[int] = field(default_factory=list)
    _of_exporter: dict[int, set[int]] = field(default_factory=dict)
    _dropped: list[int] = field(default_factory=list)
    _sessions: dict[tuple[int, int], int] = field(default_factory=dict)
    _next_session: int = SESSION_SCOPES

    def __len__(self) -> int:
        return len(self._slots)

    def scopes(self, source: I64, session: NDArray[np.uint32]) -> I64:
        """The template scope of each (source, session) pair."""
        if not session.any():
            return source
        scope = source.copy()
        for i in np.flatnonzero(session).tolist():
            pair = (int(session[i]), int(source[i]))
            number = self._sessions.get(pair)
            if number is None:
                number = self._sessions[pair] = self._next_session
                self._next_session += 1
            scope[i] = number
        return scope

    def end_session(self, session: int) -> None:
        """Forget the templates of a TCP session (RFC 7011, section 8.1)."""
        for pair in [p for p in self._sessions if p[0] == session]:
            self.revision += 1
            scope = self._sessions.pop(pair)
            self.generation.pop(scope, None)
            keys = self._arrays["key"][: self._size]
            for slot in np.flatnonzero(keys >> 16 == scope).tolist():
                self._dropped.append(int(self._arrays["layout"][slot]))
                self._remove(slot)
        self.end_batch()

    def layout_at(self, key: int, order: int) -> int:
        """The layout number of template ``key`` at a place in the batch's arrival order, or -1."""
        changes = self.changes.get(key)
        if changes:
            before = [c for c in changes if c.order <= order]
            return before[-1].after if before else changes[0].before
        slot = self._slots.get(key)
        return -1 if slot is None else int(self._arrays["layout"][slot])

    def define(self, key: int, exporter: int, layout: int, order: int, now_ns: int) -> int:
        """Template ``key`` means ``layout`` from ``order`` on; returns its slot."""
        arrays = self._arrays
        slot = self._slots.get(key)
        if slot is None:
            slot = self._new_slot(key, exporter, order)
            arrays = self._arrays
            before = -1
        else:
            before = int(arrays["layout"][slot])
        arrays["refreshed_ns"][slot] = now_ns
        if before != layout:
            self.layouts.hold(layout)
            arrays["layout"][slot] = layout
            arrays["defined_ns"][slot] = now_ns
            self._changed(key, order, before, layout, exporter)
        return slot

    def refresh(self, slots: NDArray[np.int64], now_ns: int) -> None:
        """The templates in ``slots`` were sent again as they are."""
        self._arrays["refreshed_ns"][slots] = now_ns

    def withdraw(self, key: int, order: int) -> None:
        """Template ``key`` is not defined from ``order`` on."""
        slot = self._slots.get(key)
        if slot is not None:
            before = int(self._arrays["layout"][slot])
            exporter = int(self._arrays["exporter"][slot])
            self._remove(slot)
            self._changed(key, order, before, -1, exporter)

    def withdraw_all(self, scope: int, exporter: int, options: bool, order: int) -> None:
        """Withdraw all templates, or all options templates, of a scope."""
        keys = self._arrays["key"]
        for slot in sorted(self._of_exporter.get(exporter, ())):
            key = int(keys[slot])
            layout = self.layouts[int(self._arrays["layout"][slot])]
            if key >> 16 == scope and layout.options == options:
                self.withdraw(key, order)

    def resolve(self, key: I64, order: I64, now_ns: int) -> tuple[I64, I64]:
        """Layout number of data sets by template key and arrival order; -1 where not known.

        Data without a template use its next definition within the batch. Also gives the order at
        which each set can be decoded: its own, or that of the definition that it had to wait for.
        """
        unique, inverse, count = np.unique(key, return_inverse=True, return_counts=True)
        get = self._slots.get
        keys = unique.tolist()
        slots = np.asarray([get(k, -1) for k in keys], np.int64)
        known = slots >= 0
        arrays = self._arrays
        layout = np.where(known, arrays["layout"][slots], -1).astype(np.int64)
        used = slots[known]
        arrays["uses"][used] += count[known]
        arrays["used_ns"][used] = now_ns
        resolved = layout[inverse]
        if self.changes:
            defined = np.full(len(keys), -1, np.int64)
            timelines = []
            for position, k in enumerate(keys):
                changes = self.changes.get(k)
                if changes is None:
                    continue
                if len(changes) == 1 and changes[0].before < 0:
                    defined[position] = changes[0].order
                else:
                    timelines.append((position, changes))
            order = np.maximum(order, defined[inverse])
            for position, changes in timelines:
                at = np.flatnonzero(inverse == position)
                resolved[at], order[at] = _timeline(changes, order[at])
        return resolved, order

    def end_batch(self) -> None:
        """Forget the changes and the layouts that only they still needed."""
        self.changes.clear()
        for layout in self._dropped:
            self.layouts.drop(layout)
        self._dropped.clear()

    def undo(self) -> None:
        """Take back the changes of this batch: it could not be decoded, and will come again."""
        for key, changes in self.changes.items():
            if changes[0].before < 0 and key in self._slots:
                self._remove(self._slots[key])
        self._dropped = []
        for key, changes in self.changes.items():
            if changes[0].before >= 0:
                slot = self._slots.get(key)
                if slot is None:
                    slot = self._new_slot(key, changes[0].exporter, -1)
                self._arrays["layout"][slot] = changes[0].before
            self._dropped += [c.after for c in changes if c.after >= 0]
            # whatever remembers the generations in between must not believe in them
            self.generation[key >> 16] = self.generation.get(key >> 16, 0) + 1
            self.revision += 1
        self.end_batch()

    def _changed(self, key: int, order: int, before: int, after: int, exporter: int) -> None:
        if before >= 0:
            self._dropped.append(before)
        self.changes.setdefault(key, []).append(Change(order, before, after, exporter))
        self.revision += 1
        scope = key >> 16
        self.generation[scope] = self.generation.get(scope, 0) + 1

    def _new_slot(self, key: int, exporter: int, order: int) -> int:
        own = self._of_exporter.setdefault(exporter, set())
        if len(own) >= self.limits.templates_per_exporter:
            self._evict(np.fromiter(own, np.int64, len(own)), order)
        elif len(self._slots) >= self.limits.templates:
            self._evict(np.fromiter(self._slots.values(), np.int64, len(self._slots)), order)
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._size
            self._size += 1
            if slot >= len(self._arrays["key"]):
                for name, old in self._arrays.items():
                    self._arrays[name] = np.concatenate([old, np.zeros_like(old)])
        arrays = self._arrays
        for name in ("uses", "defined_ns", "used_ns"):
            arrays[name][slot] = 0
        arrays["key"][slot] = key
        arrays["exporter"][slot] = exporter
        arrays["layout"][slot] = -1
        self._slots[key] = slot
        own.add(slot)
        return slot

    def _evict(self, slots: NDArray[np.int64], order: int) -> None:
        """Drop a sixteenth of ``slots``, those neither used nor sent for longest."""
        arrays = self._arrays
        last = np.maximum(arrays["used_ns"][slots], arrays["refreshed_ns"][slots])
        for slot in slots[np.argsort(last, kind="stable")[: len(slots) // 16 + 1]].tolist():
            exporter = int(arrays["exporter"][slot])
            self.evicted[exporter] = self.evicted.get(exporter, 0) + 1
            key, before = int(arrays["key"][slot]), int(arrays["layout"][slot])
            self._remove(slot)
            self._changed(key, order, before, -1, exporter)

    def _remove(self, slot: int) -> None:
        """Free ``slot``; the caller notes the change."""
        arrays = self._arrays
        del self._slots[int(arrays["key"][slot])]
        arrays["key"][slot] = -1
        self._of_exporter[int(arrays["exporter"][slot])].discard(slot)
        self._free.append(slot)

    def sessions(self) -> list[tuple[tuple[int, int], int]]:
        """The (session, source) pairs with a scope of their own, and its number."""
        return list(self._sessions.items())

    def slots_used(self) -> dict[str, NDArray[Any]]:
        """The arrays of all templates in use, by name: key, layout, exporter, uses and times."""
        slots = np.fromiter(self._slots.values(), np.int64, len(self._slots))
        return {name: array[slots] for name, array in self._arrays.items()}

    def dump(self) -> dict[str, Any]:
        """Plain values for the checkpoint.

        Sessions do not outlive the process, but what they have sent may still be in the journal.
        """
        arrays = self.slots_used()
        numbers, layout = np.unique(arrays["layout"], return_inverse=True)
        arrays["layout"] = layout
        layouts = [self.layouts[int(n)] for n in numbers]
        return {
            "layouts": [[x.protocol, x.scopes, x.raw.hex()] for x in layouts],
            "templates": {
                name: base64.b64encode(arrays[name].astype(dtype).tobytes()).decode()
                for name, dtype in _ARRAYS.items()
            },
            "sessions": [[*pair, scope] for pair, scope in self._sessions.items()],
            "evicted": sorted(self.evicted.items()),
        }

    def load(self, dumped: dict[str, Any]) -> None:
        """Restore what :meth:`dump` gave, into an empty table."""
        numbers = []
        for protocol, scopes, text in dumped["layouts"]:
            raw = bytes.fromhex(text)
            numbers.append(
                self.layouts.add(build(protocol, scopes, raw, specifiers(protocol, raw)))
            )
        arrays = {
            name: np.frombuffer(base64.b64decode(dumped["templates"][name]), dtype).copy()
            for name, dtype in _ARRAYS.items()
        }
        arrays["layout"] = np.asarray(numbers, np.int32)[arrays["layout"]]
        self._size = len(arrays["key"])
        self._arrays = {
            name: np.concatenate([a, np.zeros(256, a.dtype)]) for name, a in arrays.items()
        }
        self._slots = {k: i for i, k in enumerate(arrays["key"].tolist())}
        for slot, exporter in enumerate(arrays["exporter"].tolist()):
            self._of_exporter.setdefault(exporter, set()).add(slot)
            self.layouts.hold(int(arrays["layout"][slot]))
        for session, source, scope in dumped["sessions"]:
            self._sessions[session, source] = scope
            self._next_session = max(self._next_session, scope + 1)
        self.evicted = {int(k): int(v) for k, v in dumped["evicted"]}


def _timeline(changes: list[Change], order: I64) -> tuple[I64, I64]:
    """The layout at each ``order``; where there is none, the next to be defined, and when."""
    layouts = [changes[0].before] + [c.after for c in changes]
    since = [-1] + [c.order for c in changes]
    for i in range(len(layouts) - 2, -1, -1):
        if layouts[i] < 0:
            layouts[i], since[i] = layouts[i + 1], since[i + 1]
    at = np.searchsorted(np.asarray([c.order for c in changes]), order, side="right")
    return np.asarray(layouts, np.int64)[at], np.maximum(order, np.asarray(since, np.int64)[at])


def specifiers(protocol: int, raw: bytes) -> list[tuple[int, int, int]]:
    """The ``(pen, id, length)`` triples of a field list as sent (RFC 7011, section 3.2)."""
    found = []
    position = 0
    while position + 4 <= len(raw):
        number = raw[position] << 8 | raw[position + 1]
        length = raw[position + 2] << 8 | raw[position + 3]
        position += 4
        pen = 0
        if protocol == 10 and number & 0x8000:
            pen = int.from_bytes(raw[position : position + 4], "big")
            number &= 0x7FFF
            position += 4
        found.append((pen, number, length))
    return found
