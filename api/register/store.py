"""The register: what all nodes of a cluster know alike, such as tokens and operations.

An entry has a kind, a key and a version. Of two versions of an entry the higher one holds, and of
two that are equally high that of the node whose name comes last; so nodes that were apart agree as
soon as they have exchanged their entries, in whatever order they did. What is removed leaves an
entry without a body, or it would come back from a node that has not heard of it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from api.problems import Problem
from api.views import View
from appliance.store.durable import replace_file

log = logging.getLogger(__name__)

Kind = Literal["load", "operation", "pause", "report", "settings", "token"]
MOST: Final[dict[Kind, int]] = {
    "load": 20,
    "operation": 500,
    "pause": 1,
    "report": 200,
    "settings": 100,
    "token": 200,
}
"""Entries of a kind that are kept, removed ones included: those with the last keys."""
MOST_BYTES: Final = 1 << 20
"""Of an entry's file."""
_KEY = r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}"
_WRITE_SECONDS = 2.0

Key = Annotated[str, Field(pattern=f"^{_KEY}$")]


class Entry(View):
    """One thing that all nodes know."""

    kind: Kind
    key: Key
    version: int = Field(ge=1, lt=2**63, description="Counts the changes")
    node: str = Field(max_length=63, description="That made this version")
    time_ns: int = Field(description="When it was made, by that node's clock")
    body: dict[str, Any] | None = Field(description="null: removed")

    @property
    def name(self) -> tuple[Kind, str]:
        """Kind and key."""
        return self.kind, self.key

    @property
    def rank(self) -> tuple[int, str]:
        """The version that holds is the one with the highest."""
        return self.version, self.node


class NotWritten(Problem):
    """The entry is not durable, so it was not made; the detail says why."""

    def __init__(self, detail: str) -> None:
        title = "The change cannot be written"
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, "not-written", title, detail)


class Register:
    """The entries, in memory and each in a file of its own. To be used from the event loop."""

    def __init__(
        self, folder: Path | None, node: str, clock: Callable[[], int] = time.time_ns
    ) -> None:
        """``folder``: None to keep nothing over a restart."""
        self._folder = folder
        self._node = node
        self._clock = clock
        self._entries: dict[tuple[Kind, str], Entry] = {}
        self._heard: list[Callable[[Entry], None]] = []
        self._digest: str | None = None
        self._changing = asyncio.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="register")
        self._load()

    def subscribe(self, heard: Callable[[Entry], None]) -> None:
        """Call ``heard`` with each entry that has become another, here or on another node."""
        self._heard.append(heard)

    def get(self, kind: Kind, key: str) -> Entry | None:
        """The entry; None where there is none, or it was removed."""
        found = self._entries.get((kind, key))
        return found if found is not None and found.body is not None else None

    def all(self, kind: Kind) -> list[Entry]:
        """The entries of ``kind``, by key."""
        found = [e for e in self._entries.values() if e.kind == kind and e.body is not None]
        return sorted(found, key=lambda e: e.key)

    def every(self) -> dict[tuple[str, str], Entry]:
        """All entries by kind and key, removed ones included."""
        return {entry.name: entry for entry in self._entries.values()}

    @property
    def digest(self) -> str:
        """Equal on two nodes that know the same."""
        if self._digest is None:
            lines = [f"{e.kind} {e.key} {e.version} {e.node}" for e in self._entries.values()]
            self._digest = sha256("\n".join(sorted(lines)).encode()).hexdigest()
        return self._digest

    async def put(self, kind: Kind, key: str, body: dict[str, Any] | None) -> Entry:
        """Make a new version of an entry, durable on this node when this returns.

        ``body``: None to remove it. Raises :class:`NotWritten`; then nothing has changed.
        """
        async with self._changing:
            known = self._entries.get((kind, key))
            entry = Entry(
                kind=kind,
                key=key,
                version=known.version + 1 if known else 1,
                node=self._node,
                time_ns=self._clock(),
                body=body,
            )
            await self._keep(entry)
        return entry

    async def merge(self, entry: Entry) -> bool:
        """Take a version that another node has, if it holds; whether it does.

        Raises :class:`NotWritten`.
        """
        async with self._changing:
            known = self._entries.get(entry.name)
            if known is not None and known.rank >= entry.rank:
                return False
            if known is None and self._crowded_out(entry):
                return False
            await self._keep(entry)
        return True

    def close(self) -> None:
        """Wait until all is written."""
        self._writer.shutdown()

    # ── keeping ───────────────────────────────────────────────────────────────────────────────

    def _keys(self, kind: Kind) -> list[str]:
        return sorted(key for one, key in self._entries if one == kind)

    def _crowded_out(self, entry: Entry) -> bool:
        """Whether it would be the first to go."""
        keys = self._keys(entry.kind)
        return len(keys) >= MOST[entry.kind] and entry.key < keys[0]

    async def _keep(self, entry: Entry) -> None:
        data = entry.model_dump_json().encode() + b"\n"
        if len(data) > MOST_BYTES:
            raise NotWritten(
                f"{entry.kind} {entry.key} has {len(data)} bytes, {MOST_BYTES} at most"
            )
        keys = self._keys(entry.kind)
        more = entry.name not in self._entries
        surplus = keys[: max(len(keys) + more - MOST[entry.kind], 0)]
        write = asyncio.get_running_loop().run_in_executor(
            self._writer, self._write, entry, data, surplus
        )
        try:
            await asyncio.wait_for(asyncio.shield(write), _WRITE_SECONDS)
        except (OSError, TimeoutError) as error:
            reason = getattr(error, "strerror", None) or f"not within {_WRITE_SECONDS:g} s"
            raise NotWritten(f"{self._folder}: {reason}") from None
        for key in surplus:
            del self._entries[entry.kind, key]
        self._entries[entry.name] = entry
        self._digest = None
        for heard in self._heard:
            heard(entry)

    def _file(self, kind: Kind, key: str) -> Path:
        assert self._folder is not None
        return self._folder / kind / f"{key}.json"

    def _write(self, entry: Entry, data: bytes, surplus: list[str]) -> None:
        if self._folder is None:
            return
        file = self._file(*entry.name)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(file, data)
        for key in surplus:
            self._file(entry.kind, key).unlink(missing_ok=True)

    def _load(self) -> None:
        if self._folder is None:
            return
        for kind in MOST:
            for file in sorted((self._folder / kind).glob("*.json")):
                try:
                    entry = Entry.model_validate_json(file.read_bytes())
                except (OSError, ValidationError) as error:
                    log.error("%s cannot be used: %s; another node has it", file, _short(error))
                    continue
                if entry.name == (kind, file.stem):
                    self._entries[entry.name] = entry


def _short(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}"
    return str(error)


def valid_key(text: str) -> bool:
    """Whether ``text`` can be the key of an entry."""
    return re.fullmatch(_KEY, text) is not None
