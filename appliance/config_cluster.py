"""The tables of the management API and of the cluster: ``[api]`` and ``[cluster]``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from appliance.config_types import Address, FileName, FilePath, IPAddress, Port, Table, wrong


class Api(Table):
    """``[api]``: the HTTP API."""

    address: IPAddress = IPv4Address("127.0.0.1")
    port: Port = 8080
    expose: bool = False
    """Needed for an address other than loopback where there is no ``token_file``, because anyone
    who reaches it can read."""
    token_file: FilePath | None = None
    """Hex SHA-256 digests of tokens that may do everything, one a line. Absent: reads need no
    token."""
    state_dir: FilePath = Path("/var/lib/tandem-api")
    """The settings, which the collector reads, too; in a cluster also track files of drain, the
    history of failovers, the register and the audit log."""
    runtime_dir: FilePath = Path("/run/tandem-api")
    """Where the token for this machine's own command line is; used with ``token_file``."""
    query_seconds: float = Field(default=30, gt=0, le=3600)
    """A query that takes longer is ended."""
    concurrent_queries: int = Field(default=2, ge=1, le=64)
    """Queries that run at once; further ones wait, and give up after ``query_seconds``."""
    requests_per_second: float = Field(default=100, ge=1, le=10_000)
    """Of a token; more are refused with 429. As many as in two seconds may come at once."""

    @model_validator(mode="after")
    def _exposed_on_purpose(self) -> Self:
        if not self.address.is_loopback and not self.expose and self.token_file is None:
            raise wrong(
                f"{self.address} is not a loopback address, and reads need no token",
                "set token_file, or put a proxy with authentication before 127.0.0.1, or set "
                "expose = true if only people who may read can reach it",
            )
        return self


class ClusterNode(Table):
    """``[[cluster.node]]``: one of the nodes, this one included."""

    name: FileName
    address: IPAddress
    """Where the other nodes reach its API."""

    @field_validator("address")
    @classmethod
    def _of_one_node(cls, value: Address) -> Address:
        if value.is_unspecified or value.is_multicast:
            raise wrong(f"{value} is not the address of one node", "use the node's own address")
        return value


class Vip(Table):
    """``[[cluster.vip]]``: addresses that one node at a time holds."""

    name: FileName
    addresses: tuple[IPAddress, ...] = Field(strict=False)

    @field_validator("addresses")
    @classmethod
    def _one_of_a_family(cls, value: tuple[Address, ...]) -> tuple[Address, ...]:
        if not value:
            raise wrong("a VIP without an address", "list one address for each family")
        if len({a.version for a in value}) < len(value):
            raise wrong(
                "more than one address of a family", "make a VIP of its own for each further one"
            )
        return value


class Cluster(Table):
    """``[cluster]``: the nodes that take over from each other. Absent: this node is alone."""

    name: str = Field(min_length=1, max_length=63)
    port: Port = 8444
    """The nodes' APIs talk to each other here, with certificates on both sides."""
    ca: FilePath
    """The authority that signs the nodes' certificates, and nobody else's."""
    certificate: FilePath
    key: FilePath
    notify_fifo: FilePath = Path("/run/keepalived/notify")
    """Where keepalived writes its changes of state."""
    keepalived_pid: FilePath = Path("/run/keepalived.pid")
    haproxy_socket: FilePath = Path("/run/haproxy/tandem.sock")
    node: tuple[ClusterNode, ...] = Field(strict=False)
    vip: tuple[Vip, ...] = Field(default=(), strict=False)

    @field_validator("node")
    @classmethod
    def _nodes_differ(cls, value: tuple[ClusterNode, ...]) -> tuple[ClusterNode, ...]:
        if not value:
            raise wrong("a cluster without nodes", "list every node, this one included")
        _differ("node", "name", (n.name for n in value))
        _differ("node", "address", (n.address for n in value))
        return value

    @field_validator("vip")
    @classmethod
    def _vips_differ(cls, value: tuple[Vip, ...]) -> tuple[Vip, ...]:
        _differ("VIP", "name", (v.name for v in value))
        _differ("VIP", "address", (a for v in value for a in v.addresses))
        return value

    @model_validator(mode="after")
    def _vips_are_no_nodes(self) -> Self:
        owners = {n.address: n.name for n in self.node}
        for vip in self.vip:
            for address in vip.addresses:
                if address in owners:
                    raise wrong(
                        f"{address} is both VIP {vip.name} and node {owners[address]}",
                        "a VIP moves from node to node: use an address that no node has",
                    )
        return self

    def address_of(self, name: str) -> Address | None:
        """The address of the node ``name``; None where there is no such node."""
        return next((n.address for n in self.node if n.name == name), None)

    def common(self) -> dict[str, object]:
        """What all nodes must agree on."""
        return self.model_dump(mode="json", include={"name", "port", "node", "vip"})


def _differ(what: str, key: str, values: Iterable[object]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise wrong(f"{count} times the same {key} {value}", f"give each {what} its own {key}")
