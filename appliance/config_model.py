"""What can be configured: the typed tables of the TOML file, with their defaults and bounds.

Sizes are bytes, written as a whole number or as text with a unit ("512 MiB"); times are in the
unit that the name ends with. Nothing here touches a file, except to ask whether one exists.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from appliance.decode.limits import Limits as DecoderLimits


Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12} | {
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def wrong(problem: str, remedy: str) -> PydanticCustomError:
    """An error with what to do about it, to be raised in a validator."""
    return PydanticCustomError("tandem", "{problem}", {"problem": problem, "remedy": remedy})


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if match is None or match[2].lower() not in _UNITS:
        raise wrong(f"{value!r} is not a size", 'use bytes, or a text such as "512 MiB"')
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _address(value: object) -> Address:
    try:
        return ip_address(str(value)) if isinstance(value, str | Address) else _no_address(value)
    except ValueError:
        return _no_address(value)


def _no_address(value: object) -> Address:
    raise wrong(
        f"{value!r} is not an IP address", 'use one such as "192.0.2.1" or "2001:db8::1", in quotes'
    )


def _network(value: object) -> Network:
    if isinstance(value, Network):
        return value
    try:
        if not isinstance(value, str):
            raise TypeError
        return ip_network(value)
    except (ValueError, TypeError):
        pass
    try:
        masked = str(ip_network(str(value), strict=False))
    except ValueError:
        raise wrong(
            f"{value!r} is neither an IP address nor a network",
            'use one such as "10.0.0.0/8" or "2001:db8::/32", in quotes',
        ) from None
    raise wrong(f"{value!r} has bits set beyond its prefix", f'did you mean "{masked}"?')


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise wrong(f"{value!r} is not a path", "use a text in quotes")
    base = (info.context or {}).get("base", Path())
    return Path(base, Path(value).expanduser()).absolute()


Size = Annotated[int, BeforeValidator(_size)]
IPAddress = Annotated[Address, PlainValidator(_address), PlainSerializer(str)]
IPNetwork = Annotated[Network, PlainValidator(_network), PlainSerializer(str)]
FilePath = Annotated[Path, PlainValidator(_path), PlainSerializer(str)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Table(BaseModel):
    """A table of the file: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)


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
    return name if _NAME.fullmatch(name) else "node"


class Node(Table):
    """``[node]``: who this is."""

    name: str = Field(default_factory=default_name)
    """Unique among the nodes of a cluster; part of the names of its segments."""

    @field_validator("name")
    @classmethod
    def _fit_for_a_file_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise wrong(
                f"{value!r} cannot be a node's name",
                "use 1 to 63 letters, digits, dots, dashes and underscores, first and last "
                "a letter or digit",
            )
        return value


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


class Api(Table):
    """``[api]``: the read-only HTTP API."""

    address: IPAddress = IPv4Address("127.0.0.1")
    port: Port = 8080
    expose: bool = False
    """Needed for an address other than loopback, because anyone who reaches it can read."""
    query_seconds: float = Field(default=30, gt=0, le=3600)
    """A query that takes longer is ended."""
    concurrent_queries: int = Field(default=2, ge=1, le=64)
    """Queries that run at once; further ones wait, and give up after ``query_seconds``."""

    @model_validator(mode="after")
    def _exposed_on_purpose(self) -> Self:
        if not self.address.is_loopback and not self.expose:
            raise wrong(
                f"{self.address} is not a loopback address, and reads need no token",
                "set expose = true if only people who may read can reach it, or put a proxy "
                "with authentication before 127.0.0.1",
            )
        return self


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

    @field_validator("exporter")
    @classmethod
    def _each_once(cls, value: tuple[Exporter, ...]) -> tuple[Exporter, ...]:
        seen: set[Network] = set()
        for exporter in value:
            if exporter.address in seen:
                raise wrong(f"{exporter.address} is there twice", "join the two tables")
            seen.add(exporter.address)
        return value

    def exporter_of(self, address: Address) -> Exporter | None:
        """The ``[[exporter]]`` table for ``address``: the one with the longest prefix."""
        fits = [e for e in self.exporter if address in e.address]
        return max(fits, key=lambda e: e.address.prefixlen, default=None)

    def sha256(self) -> str:
        """Hex digest of the values, however the file spells them: equal if nothing differs."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
