"""Exchanging the register: a change goes to the other nodes at once, and they are compared later.

Whoever makes a change tells the others, each with a deadline. One that does not hear of it finds in
the next answer to "how are you" that its register differs, and fetches what it lacks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from http import HTTPStatus

from pydantic import TypeAdapter, ValidationError

from api.peers import MISSES, Peer, PeerFailed
from api.register.store import Entry, NotWritten, Register
from api.views import View

log = logging.getLogger(__name__)

PATH = "/v1/register"
_PERIOD = 0.5
_APART_SECONDS = 3.0
"""After so long two registers that differ are not just on their way to be alike."""


class Version(View):
    """Which version of an entry a node has."""

    kind: str
    key: str
    version: int
    node: str


_VERSIONS = TypeAdapter(list[Version])


class Replicator:
    """Keeps the registers of this node and its peers alike."""

    def __init__(self, name: str, register: Register, peers: dict[str, Peer]) -> None:
        self._name = name
        self._register = register
        self._peers = peers
        self._apart_since: dict[str, float] = {}
        self._telling: set[asyncio.Task[None]] = set()
        register.subscribe(self._changed)

    async def run(self) -> None:
        """Compare with each peer until cancelled."""
        async with asyncio.TaskGroup() as group:
            for peer in self._peers.values():
                group.create_task(self._follow(peer))

    async def told(self) -> None:
        """Wait until the peers that can be reached have heard of the changes so far."""
        await asyncio.gather(*self._telling, return_exceptions=True)

    def apart(self) -> list[str]:
        """Peers that have not had the same register as this node for some seconds."""
        since = time.monotonic() - _APART_SECONDS
        return [name for name, begun in self._apart_since.items() if begun < since]

    def _changed(self, entry: Entry) -> None:
        if entry.node != self._name:
            return  # whoever made it tells all
        data = entry.model_dump_json().encode()
        for peer in self._peers.values():
            if peer.misses < MISSES:  # it may not have been asked yet
                task = asyncio.create_task(self._tell(peer, entry, data))
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)

    async def _tell(self, peer: Peer, entry: Entry, data: bytes) -> None:
        try:
            await peer.request("PUT", f"{PATH}/{entry.kind}/{entry.key}", content=data)
        except PeerFailed as failed:
            log.info("%s has not heard of %s %s: %s", peer.name, entry.kind, entry.key, failed)

    async def _follow(self, peer: Peer) -> None:
        compared = ("", "")
        while True:
            await asyncio.sleep(_PERIOD)
            there = peer.view.register_sha256 if peer.view else ""
            both = there, self._register.digest
            if both[0] == both[1]:
                self._apart_since.pop(peer.name, None)
            else:
                self._apart_since.setdefault(peer.name, time.monotonic())
            # what stays different is in the peer's to fetch, or of a kind that this version lacks
            if not there or there == both[1] or both == compared:
                continue
            try:
                await self._fetch(peer)
                compared = there, self._register.digest
            except (PeerFailed, NotWritten) as failed:
                log.warning("the register of %s cannot be had: %s", peer.name, failed)

    async def _fetch(self, peer: Peer) -> None:
        """Take what ``peer`` has and this node lacks."""
        known = self._register.every()
        for there in await self._listing(peer):
            here = known.get((there.kind, there.key))
            if here is not None and here.rank >= (there.version, there.node):
                continue
            answer = await peer.request("GET", f"{PATH}/{there.kind}/{there.key}")
            if answer.status_code != HTTPStatus.OK:
                continue  # of a kind that only one of the versions knows, or gone since
            try:
                await self._register.merge(Entry.model_validate_json(answer.content))
            except ValidationError:
                log.warning("%s %s of %s is no entry", there.kind, there.key, peer.name)

    async def _listing(self, peer: Peer) -> list[Version]:
        answer = await peer.request("GET", PATH)
        if answer.status_code != HTTPStatus.OK:
            raise PeerFailed(f"it answers with status {answer.status_code}")
        try:
            return _VERSIONS.validate_json(answer.content)
        except ValidationError:
            raise PeerFailed("its answer is no list of entries") from None
