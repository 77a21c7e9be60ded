"""The other nodes: each is asked each second how it is, over TLS with certificates on both sides.

They are asked in parallel and with a deadline, so one that hangs delays nothing.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import httpx2
from pydantic import ValidationError

from api.views import AuditHead, NodeView
from appliance.config import Cluster
from appliance.config_cluster import ClusterNode

PERIOD = 1.0
TIMEOUT = 1.0
MISSES = 2
"""Answers in a row that must be missing before a node counts as unreachable: one may be late."""
_REQUEST_SECONDS = 3.0
_MOST_BYTES = 8 << 20
_SAMPLES = 10


class PeerFailed(Exception):  # noqa: N818 - says what happened
    """The peer did not answer, or not as a node of this cluster; the message says why."""


class Peer:
    """Another node, and what it said last."""

    def __init__(
        self, node: ClusterNode, port: int, context: ssl.SSLContext, clock: Callable[[], int]
    ) -> None:
        self.name = node.name
        self.address = str(node.address)
        self.view: NodeView | None = None
        """None while it is not reachable."""
        self.reachable = False
        self.since_ns = clock()
        self.problem = "not asked yet"
        self.misses = 0
        """Answers missing in a row, the first few of which say nothing yet."""
        self.audit_cut = ""
        """What its audit log had once and has no more."""
        self._clock = clock
        self._audit: AuditHead | None = None
        self._samples: deque[tuple[int, int]] = deque(maxlen=_SAMPLES)
        host = f"[{self.address}]" if ":" in self.address else self.address
        self._client = httpx2.AsyncClient(
            base_url=f"https://{host}:{port}", verify=context, timeout=TIMEOUT, trust_env=False
        )

    @property
    def clock_offset_seconds(self) -> float | None:
        """Its clock minus ours, by the quickest of the last answers."""
        if not self.reachable or not self._samples:
            return None
        return min(self._samples)[1] / 1e9

    @property
    def clock_uncertainty_seconds(self) -> float:
        """How far :attr:`clock_offset_seconds` can be from the truth."""
        return min(self._samples, default=(0, 0))[0] / 2e9

    async def run(self) -> None:
        """Ask each second until cancelled."""
        try:
            while True:
                begun = time.monotonic()
                try:
                    self._heard(await self._ask())
                except PeerFailed as failed:
                    self._missed(str(failed))
                await asyncio.sleep(max(0.0, begun + PERIOD - time.monotonic()))
        finally:
            await self._client.aclose()

    async def _ask(self) -> NodeView:
        sent, begun = self._clock(), time.monotonic_ns()
        try:
            async with asyncio.timeout(TIMEOUT):
                status, body = await self._get("/v1/node")
        except TimeoutError:
            raise PeerFailed(f"no answer within {TIMEOUT:g} s") from None
        except (httpx2.HTTPError, OSError) as error:
            raise PeerFailed(_words(error)) from None
        trip = time.monotonic_ns() - begun
        if status != httpx2.codes.OK:
            raise PeerFailed(f"it answers with status {status}")
        try:
            view = NodeView.model_validate_json(body)
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise PeerFailed(f"its answer is not a node's state: {where or 'no JSON'}") from None
        if view.name != self.name:
            raise PeerFailed(f"the node there is {view.name!r}: names or addresses are mixed up")
        self._samples.append((trip, view.time_ns - (sent + trip // 2)))
        return view

    async def _get(self, path: str) -> tuple[int, bytes]:
        async with self._client.stream("GET", path) as answer:
            body = b""
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > _MOST_BYTES:
                    raise PeerFailed("its answer is too long")
            return answer.status_code, body

    def _heard(self, view: NodeView) -> None:
        self.view, self.problem, self.misses = view, "", 0
        self._remember(view.audit)
        if not self.reachable:
            self.reachable, self.since_ns = True, self._clock()

    def _remember(self, head: AuditHead | None) -> None:
        """Its log can vouch for all lines but the last, for which we do."""
        known = self._audit
        if known is not None and head is not None:
            if head.number < known.number:
                self.audit_cut = f"it had line {known.number}, then only {head.number}"
            elif head.number == known.number and head != known:
                self.audit_cut = f"line {head.number} has become another"
        self._audit = head or known

    def _missed(self, problem: str) -> None:
        self.misses += 1
        self.problem = problem
        if self.misses >= MISSES:
            self.view = None
            self._samples.clear()
            if self.reachable:
                self.reachable, self.since_ns = False, self._clock()

    async def request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> httpx2.Response:
        """Make a request, for this node or for a client of it; raises :class:`PeerFailed`.

        ``seconds``: for what takes its time.
        """
        most = seconds or _REQUEST_SECONDS
        try:
            async with asyncio.timeout(most):
                return await self._client.request(
                    method,
                    path,
                    params=dict(params or {}),
                    content=content,
                    headers=dict(headers or {}),
                    timeout=seconds or TIMEOUT,
                )
        except TimeoutError:
            raise PeerFailed(f"no answer within {most:g} s") from None
        except (httpx2.HTTPError, OSError) as error:
            raise PeerFailed(_words(error)) from None


def peers_of(
    cluster: Cluster, name: str, context: ssl.SSLContext, clock: Callable[[], int]
) -> dict[str, Peer]:
    """The nodes of ``cluster`` other than ``name``."""
    others: Iterable[ClusterNode] = (n for n in cluster.node if n.name != name)
    return {n.name: Peer(n, cluster.port, context, clock) for n in others}


def _words(error: Exception) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return f"no answer within {TIMEOUT:g} s"
    return str(error) or type(error).__name__
