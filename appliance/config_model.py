"""What can be configured: the typed tables of the TOML file, with their defaults and bounds.

Sizes are bytes, written as a whole number or as text with a unit ("512 MiB"); times are in the
unit that the name ends with. Nothing here touches a file, except to ask whether one exists.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from appliance.config_cluster import Api, Cluster
from appliance.config_drill import Drill
from appliance.config_types import (
    NAME,
    Address,
    FileName,
    FilePath,
    IPAddress,
    IPNetwork,
    Network,
    Port,
    Size,
    Table,
    wrong,
)

if TYPE_CHECKING:
    from appliance.decode.limits import Limits as DecoderLimits


def default_data_dir() -> Path:
    """Where a node keeps its state if the file does not say: systemd's choice, or the user's."""
    from_unit = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if from_unit:
        return Path(from_unit)
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home else Path.home() / ".local" / "state") / "tandem"


def default_name() -> str:
    """The host's name up to the first dot, or ``node`` where it is not fit for a file name."""
    name = socket.gethostname().split(".")[0]
    return name if NAME.fullmatch(name) else "node"


class Node(Table):
    """``[node]``: who this is."""

    name: FileName = Field(default_factory=default_name)
    """Unique among the nodes of a cluster; part of the names of its segments."""


class Listener(Table):
    """``[[listener]]``: one socket address; any export protocol is taken on any of them."""

    transport: Literal["udp", "tcp"] = "udp"
    address: IPAddress = IPv6Address("::")
    """``::`` is every address of both families."""
    port: Port
    proxy_protocol: bool = False
    """TCP: every connection begins with a PROXY protocol header that names the exporter."""

    @model_validator(mode="after")
    def _proxy_protocol_is_of_tcp(self) -> Self:
        if self.proxy_protocol and self.transport != "tcp":
            raise wrong(
                "proxy_protocol is for TCP listeners only",
                'remove it, or set transport = "tcp"; UDP goes straight to the node',
            )
        return self

    def covers(self, other: Listener) -> bool:
        """Whether binding both would want the same port of the same address."""
        if (self.transport, self.port) != (other.transport, other.port):
            return False
        mine, theirs = self.address, other.address
        if mine == theirs or mine == IPv6Address("::"):
            return True
        return mine == IPv4Address("0.0.0.0") and theirs.version == 4


DEFAULT_LISTENERS = (
    Listener(port=2055),
    Listener(port=9995),
    Listener(port=4739),
    Listener(port=6343),
    Listener(transport="tcp", port=4739),
)
"""NetFlow and NetStream on 2055 and 9995, IPFIX on 4739 (UDP and TCP), sFlow on 6343."""


def _default_workers(data: dict[str, int]) -> int:
    """As many workers as processors, within what the other keys allow."""
    most = min(os.cpu_count() or 1, data.get("shards", 1))
    return max(most, data.get("min_workers", 1))


class Receive(Table):
    """``[receive]``: sockets and worker processes."""

    shards: int = Field(default=4, ge=1, le=256)
    """Parts that exporters are spread over, each with its journal; fixed while data is there."""
    min_workers: int = Field(default=1, ge=1, le=256)
    max_workers: int = Field(default_factory=lambda data: _default_workers(data), ge=1, le=256)
    """Worker processes: the node adds and removes them between these with the backlog."""
    receive_buffer: Size = Field(default=64 * 2**20, ge=2**16, le=2**30)
    """Bytes of kernel buffer a UDP socket; what arrives while a worker restarts waits in it."""

    @model_validator(mode="after")
    def _workers_fit(self) -> Self:
        if self.min_workers > self.max_workers:
            raise wrong(
                f"min_workers ({self.min_workers}) is above max_workers ({self.max_workers})",
                "make max_workers at least as large",
            )
        if self.max_workers > self.shards:
            raise wrong(
                f"max_workers ({self.max_workers}) is above shards ({self.shards})",
                "a worker has at least one shard: raise shards, or lower max_workers",
            )
        return self


class Journal(Table):
    """``[journal]``: raw datagrams that are not yet safely stored."""

    max_bytes: Size = Field(default=4 * 2**30, ge=2**24)
    """Bytes over all shards; beyond them datagrams wait in the kernel's buffer, and those that find
    it full are dropped and counted."""


class Store(Table):
    """``[store]``: flow records on disk."""

    retention_days: float = Field(default=30, gt=0, le=36525)
    """Age at which flow records expire."""
    max_bytes: Size | None = Field(default=None, ge=2**24)
    """Bytes of flow records kept; the oldest go first. Absent: as much as the disk has."""
    reserve_bytes: Size = Field(default=2**30, ge=0)
    """Free space left on the file system; the oldest flow records go first."""
    flush_seconds: float = Field(default=1.0, ge=0.05, le=60)
    """How long a flow record may wait before it is durable and can be queried."""


class Limits(Table):
    """``[limits]``: what one exporter, or all, can make this node keep in memory.

    What goes beyond a limit is counted, and the ledger says whose it was.
    """

    exporters: int = Field(default=65536, ge=1, le=2**24)
    """Exporters that are told apart; further ones share one row."""
    domains_per_exporter: int = Field(default=256, ge=1, le=2**20)
    """Observation domains that are told apart; further ones share one."""
    templates_per_exporter: int = Field(default=4096, ge=1, le=2**20)
    """Templates of all its domains; the one unused for longest makes room."""
    templates: int = Field(default=400_000, ge=1, le=2**24)
    """Templates of all exporters."""
    options_per_exporter: int = Field(default=65536, ge=1, le=2**24)
    """Names and sampling rates learnt from options data."""
    held_bytes_per_exporter: Size = Field(default=4 * 2**20, ge=0)
    """Bytes of datagrams that wait for their templates."""
    held_bytes: Size = Field(default=256 * 2**20, ge=0)
    """The same of all exporters."""
    hold_seconds: float = Field(default=1800, ge=0, le=86400)
    """How long a datagram waits for its template before it is a named loss."""

    def decoder(self, shards: int) -> DecoderLimits:
        """The same for the decoder of one of ``shards`` shards: it has its part of the totals."""
        # the package of the decoder takes its time to import, and most readers do not decode
        from appliance.decode.limits import Limits as DecoderLimits

        return DecoderLimits(
            templates_per_exporter=self.templates_per_exporter,
            templates=max(self.templates // shards, 1),
            held_bytes_per_exporter=self.held_bytes_per_exporter,
            held_bytes=self.held_bytes // shards,
            held_ns=int(self.hold_seconds * 1e9),
            options_per_exporter=self.options_per_exporter,
        )


class Exporter(Table):
    """``[[exporter]]``: what the node cannot learn from an exporter itself."""

    address: IPNetwork
    """An address or a network; the longest prefix wins."""
    name: str | None = Field(default=None, min_length=1, max_length=255)
    sampling_rate: int | None = Field(default=None, ge=1, le=2**32 - 1)
    """One in this many packets, used only where the exporter says nothing."""


class Elements(Table):
    """``[elements]``: further information elements, in the format of the shipped CSV files."""

    files: tuple[FilePath, ...] = Field(default=(), strict=False)


class Health(Table):
    """``[health]``: how the node proves that its collector works (``tandem health``)."""

    directory: FilePath
    """Where the collector and its watcher say how they do; on a file system in memory."""
    hung_seconds: float = Field(default=0.5, ge=0.1, le=60)
    """A shard that proves nothing for so long hangs; five canaries are sent to it in this time."""


class Metrics(Table):
    """``[metrics]``: what ``/metrics`` shows."""

    exporters: int = Field(default=1000, ge=0)
    """Exporters with time series of their own, busiest first; the others are one series."""


class Config(Table):
    """The whole file."""

    data_dir: FilePath = Field(default_factory=default_data_dir)
    """Journal, store and state of this node."""
    allow: tuple[IPNetwork, ...] = Field(default=(), strict=False)
    """Networks that exporters may be in; empty: any."""
    node: Node = Node()
    listener: tuple[Listener, ...] = Field(default=DEFAULT_LISTENERS, strict=False)
    receive: Receive = Receive()
    journal: Journal = Journal()
    store: Store = Store()
    limits: Limits = Limits()
    exporter: tuple[Exporter, ...] = Field(default=(), strict=False)
    elements: Elements = Elements()
    api: Api = Api()
    metrics: Metrics = Metrics()
    health: Health | None = None
    drill: Drill = Drill()
    cluster: Cluster | None = None

    @field_validator("listener")
    @classmethod
    def _no_two_alike(cls, value: tuple[Listener, ...]) -> tuple[Listener, ...]:
        if not value:
            raise wrong("nothing to listen on", "list at least 1, or leave it out for the defaults")
        for i, one in enumerate(value):
            for j, other in enumerate(value):
                if i != j and one.covers(other):
                    raise wrong(
                        f"listeners {min(i, j) + 1} and {max(i, j) + 1} both want "
                        f"{one.transport} port {one.port} of {other.address}",
                        "remove one of them (:: is every address of both families)",
                    )
        return value

    @field_validator("health")
    @classmethod
    def _has_a_listener(cls, value: Health | None, info: ValidationInfo) -> Health | None:
        heard = info.data.get("listener", DEFAULT_LISTENERS)
        if value is not None and not any(one.transport == "udp" for one in heard):
            raise wrong(
                "no UDP listener through which the collector could be seen to work",
                "add a [[listener]], or remove [health]",
            )
        return value

    @field_validator("exporter")
    @classmethod
    def _each_once(cls, value: tuple[Exporter, ...]) -> tuple[Exporter, ...]:
        seen: set[Network] = set()
        for exporter in value:
            if exporter.address in seen:
                raise wrong(f"{exporter.address} is there twice", "join the two tables")
            seen.add(exporter.address)
        return value

    @field_validator("cluster")
    @classmethod
    def _has_this_node(cls, value: Cluster | None, info: ValidationInfo) -> Cluster | None:
        # a table that is itself wrong is not in the data, and has its own error
        if value is None or not {"node", "listener", "api"} <= info.data.keys():
            return value
        name, api = info.data["node"].name, info.data["api"]
        address = value.address_of(name)
        if address is None:
            raise wrong(
                f"no [[cluster.node]] has the name of this node, {name}",
                "add it, or correct name in [node]",
            )
        # bound together, they would want the same port
        own = Listener(transport="tcp", address=address, port=value.port)
        sockets = [*info.data["listener"], Listener(transport="tcp", address=api.address,
                                                    port=api.port)]  # fmt: skip
        for other in sockets:
            if other.covers(own) or own.covers(other):
                what = "[api]" if other is sockets[-1] else "a [[listener]]"
                raise wrong(f"port {value.port} is also that of {what}", "use another port")
        return value

    def exporter_of(self, address: Address) -> Exporter | None:
        """The ``[[exporter]]`` table for ``address``: the one with the longest prefix."""
        fits = [e for e in self.exporter if address in e.address]
        return max(fits, key=lambda e: e.address.prefixlen, default=None)

    def sha256(self) -> str:
        """Hex digest of the values, however the file spells them: equal if nothing differs."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def shared_sha256(self) -> str:
        """Hex digest of what all nodes of a cluster must have in common; equal if they do.

        What may differ from node to node is not part of it: names of this node, paths, and what
        depends on the machine's size.
        """
        common = self.model_dump(mode="json", include={"allow", "listener", "limits", "exporter"})
        common["retention_days"] = self.store.retention_days
        common["elements"] = [file.name for file in self.elements.files]
        common["drill"] = self.drill.model_dump(mode="json", exclude={"fence", "socket"})
        common["cluster"] = self.cluster.common() if self.cluster else None
        return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()
