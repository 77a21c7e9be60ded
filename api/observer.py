"""All that is known of this node and its peers, in memory: what every request is answered from."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from api.audit.log import AuditLog
from api.drain_files import DrainFiles
from api.failover import Tracker, Trouble, troubles_of
from api.history import History
from api.node_file import Watcher, ask, read
from api.observe import fault, health_file
from api.observe.addresses import Addresses
from api.observe.clients import Clients
from api.observe.haproxy import Adapter, ProxyState
from api.observe.host import disk, host
from api.observe.keepalived import Keepalived
from api.observe.source import Source
from api.peers import Peer, peers_of
from api.register.replicate import Replicator
from api.register.store import Register
from api.tls import client_context
from api.views import FaultView, NodeView, Program, Proxy, Role, VipView
from appliance import __version__
from appliance.config import Config, Vip
from appliance.health.report import JSON_FILE
from appliance.health.state_socket import SOCKET_FILE

log = logging.getLogger(__name__)

_TICK = 0.25
_SHOWN = 10
"""Transitions that peers are told of."""


class Observer:
    """Looks at everything, each thing on its own, and puts the views together."""

    def __init__(self, config: Config, clock: Callable[[], int] = time.time_ns) -> None:
        cluster = config.cluster
        directory = config.health.directory if config.health else None
        self.config = config
        self.clock = clock
        self.name = config.node.name
        self.vips: tuple[Vip, ...] = cluster.vip if cluster else ()
        self._shared_sha256 = config.shared_sha256()
        self._started_ns = clock()
        self.watcher = Watcher(
            partial(ask, directory / SOCKET_FILE) if directory else partial(read, config.data_dir),
            clock=clock,
        )
        self.host = Source("host", host, clock=clock)
        self.disk = Source("disk", partial(disk, config.data_dir), clock=clock)
        self.health = (
            Source("health", partial(health_file.read, directory / JSON_FILE),
                   period=0.25, clock=clock)
            if directory
            else None
        )  # fmt: skip
        state = config.api.state_dir if cluster else None
        self.drain = DrainFiles(state, [v.name for v in self.vips])
        history = History(state / "failover.jsonl" if state else None)
        self.tracker = Tracker(self.name, history, clock)
        self.addresses = Addresses(self.vips, self.tracker.changed, clock)
        self.keepalived: Keepalived | None = None
        self.haproxy: Source[ProxyState] | None = None
        self.fault: Source[FaultView] | None = None
        self.clients = Clients(clock)
        self.peers: dict[str, Peer] = {}
        if cluster:
            look = partial(fault.look, config.drill.socket)
            self.fault = Source("tandem-fault", look, clock=clock)
            self.keepalived = Keepalived(cluster.notify_fifo, cluster.keepalived_pid, self._heard)
            self.haproxy = Source("HAProxy", Adapter(cluster.haproxy_socket).look, clock=clock)
            self.peers = peers_of(cluster, self.name, client_context(cluster), clock)
        self.audit = AuditLog(state / "audit.jsonl" if state else None, self.name)
        self.register = Register(state / "register" if state else None, self.name, clock)
        self.replicator = Replicator(self.name, self.register, self.peers)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to look."""
        self.watcher.start()
        for source in self._sources():
            source.start()
        running = [self._follow_causes(), self._end_drains()]
        if self.vips:
            running.append(self.addresses.run())
        if self.keepalived:
            running.append(self.keepalived.run())
        running += [peer.run() for peer in self.peers.values()]
        running.append(self.replicator.run())
        self._tasks = [asyncio.create_task(coroutine) for coroutine in running]

    async def stop(self) -> None:
        """End within a moment."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for source in self._sources():
            source.stop()
        self.watcher.stop()
        self.tracker.history.close()
        self.register.close()
        self.audit.close()

    def _sources(self) -> list[Source[Any]]:
        found: list[Source[Any] | None] = [
            *(self.host, self.disk, self.health, self.haproxy, self.fault)
        ]
        return [source for source in found if source is not None]

    # ── what is known ─────────────────────────────────────────────────────────────────────────

    def unready(self) -> list[str]:
        """Why the node does not collect; empty when it does."""
        now = self.clock()
        reasons = self.watcher.snapshot.unready(now)
        if self.health is not None:
            seen = self.health.seen
            trouble = seen.value.trouble(now) if seen.value else seen.problem
            reasons += [trouble] if trouble else []
        return reasons

    def view(self) -> NodeView:
        """All of it, as the node's document."""
        config, snapshot = self.config, self.watcher.snapshot
        reasons = self.unready()
        document = snapshot.document
        return NodeView(
            name=self.name,
            time_ns=self.clock(),
            cluster=config.cluster.name if config.cluster else None,
            version=__version__,
            started_ns=self._started_ns,
            config_sha256=self._shared_sha256,
            register_sha256=self.register.digest,
            audit=self.audit.head,
            ready=not reasons,
            reasons=reasons,
            vips=[self.vip(vip) for vip in self.vips],
            drain=self.drain.view,
            health=self.health.seen.value if self.health else None,
            balanced=all(s.balanced for s in document.shards) if document else None,
            disk=self.disk.seen.value,
            host=self.host.seen.value,
            keepalived=Program(up=self.keepalived.up, problem=self.keepalived.problem)
            if self.keepalived
            else None,
            haproxy=self._proxy(),
            collector=document,
            collector_problem=snapshot.problem,
            fault=self.fault.seen.value if self.fault else None,
            drill_clients=self.clients.seen,
            transitions=self.tracker.history.all()[-_SHOWN:],
        )

    def vip(self, vip: Vip) -> VipView:
        """One VIP on this node."""
        held = self.addresses.held(vip.name)
        said = self.keepalived.opinion(vip.name) if self.keepalived else None
        return VipView(
            vip=vip.name,
            addresses=[str(a) for a in vip.addresses],
            role=self._role(vip.name, held, said),
            held=held,
            since_ns=self.addresses.since_ns(vip.name),
            keepalived=said,
            agrees=None if held is None or said is None else (said == "MASTER") == held,
            drained=self.drain.view.of(vip.name),
        )

    def _role(self, vip: str, held: bool | None, said: str | None) -> Role:
        if held is None:
            return "unknown"
        drained = self.drain.view.of(vip)
        if held:
            return "draining" if drained else "active"
        down = self.keepalived is not None and self.keepalived.up is False
        if down or said in ("FAULT", "STOP") or self.addresses.partly(vip):
            return "fault"
        return "draining" if drained else "standby"

    def _proxy(self) -> Proxy | None:
        if self.haproxy is None:
            return None
        seen = self.haproxy.seen
        up = True if seen.value else False if self.haproxy.failed else None
        return Proxy(up=up, problem=seen.problem, state=seen.value)

    def use(self, config: Config) -> None:
        """Another configuration holds, for what nodes compare."""
        self._shared_sha256 = config.shared_sha256()

    def answers(self, node: str) -> bool:
        """Whether ``node`` can be reached."""
        return node == self.name or (node in self.peers and self.peers[node].reachable)

    # ── causes ────────────────────────────────────────────────────────────────────────────────

    def _heard(self, vip: str, word: str) -> None:
        """A line of keepalived's FIFO."""
        if word == "MASTER_RX_LOWER_PRI":
            self.tracker.trouble(Trouble(self.name, "lower priority advert", vip=vip))
        elif word in ("STOP", "DELETED"):
            self.tracker.trouble(Trouble(self.name, "keepalived stopped", vip=vip))

    async def _follow_causes(self) -> None:
        while True:
            try:
                self._note_troubles()
                self.tracker.tick()
            except Exception:
                log.exception("the causes of transitions cannot be told")
            await asyncio.sleep(_TICK)

    async def _end_drains(self) -> None:
        while True:
            try:
                if self.drain.due(self.clock()):
                    await asyncio.to_thread(self.drain.end_due, self.clock())
            except OSError as error:
                log.error("a drain that is to end by itself does not: %s", error)
            await asyncio.sleep(_TICK)

    def _note_troubles(self) -> None:
        for trouble in troubles_of(self.view(), own=True):
            self.tracker.trouble(trouble)
        views = [peer.view for peer in self.peers.values() if peer.view is not None]
        self.tracker.lost(t for v in views for t in v.transitions if t.after != "active")
        for peer in self.peers.values():
            if peer.misses or not peer.reachable:
                self._told(peer.name, "peer unreachable", peer.name)
                self._told(self.name, "partition healed", peer.name)
            elif peer.view is not None:
                for trouble in troubles_of(peer.view, own=False):
                    self.tracker.trouble(trouble)
                for vip in peer.view.vips:
                    if vip.held:
                        self.tracker.elsewhere(peer.name, vip.vip)
                        if self.addresses.held(vip.vip):
                            self._told(self.name, "partition healed", peer.name, vip.vip)

    def _told(self, node: str, cause: str, detail: str, vip: str | None = None) -> None:
        self.tracker.trouble(Trouble(node, cause, detail, vip, told=True))
