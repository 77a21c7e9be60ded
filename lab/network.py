"""The lab's network: one bridge, in a namespace of its own, and what is plugged into it.

    namespace tandem-lab (the switch): bridge br0
        vb-n1, vb-n2, ...   the nodes (made by systemd-nspawn)
        exporter, client    hosts that are only a namespace
        here                this machine, so that its user can reach the cluster

The bridge floods unknown unicast and forgets the addresses of a dead port, as switches do.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass

from lab.shell import LabError, run

SWITCH = "tandem-lab"
BRIDGE = "br0"
HERE = "tandem-lab"
"""The interface of this machine on the switch."""
NETWORK4, NETWORK6 = "10.77.0.0/24", "fd77::/64"


@dataclass(frozen=True, slots=True)
class Host:
    """A host that is only a namespace; several addresses are several exporters."""

    name: str
    octets: tuple[int, ...]

    @property
    def namespace(self) -> str:
        """Its network namespace."""
        return f"{SWITCH}-{self.name}"

    @property
    def addresses(self) -> list[str]:
        """With prefix lengths, of both families."""
        found = [f"10.77.0.{octet}/24" for octet in self.octets]
        return found + [f"fd77::{octet}/64" for octet in self.octets]


HOSTS = (Host("exporter", tuple(range(200, 210))), Host("client", (220,)))
HERE_OCTET = 254


def namespaces() -> list[str]:
    """Names of the lab's namespaces that exist."""
    listed = json.loads(run("ip", "-json", "netns", "list") or "[]")
    return [r["name"] for r in listed if r["name"] == SWITCH or r["name"].startswith(SWITCH + "-")]


def up() -> bool:
    """Make what is missing; whether anything was. LabError where the addresses are taken."""
    if SWITCH in namespaces():
        return False
    for network in (NETWORK4, NETWORK6):
        family = "-6" if ":" in network else "-4"
        if used := run("ip", family, "route", "show", "root", network).strip():
            raise LabError(f"{network} is in use on this machine: {used}")
    try:
        _make()
    except BaseException:
        down()
        raise
    return True


def _make() -> None:
    run("ip", "netns", "add", SWITCH)
    run("ip", "-n", SWITCH, "link", "set", "lo", "up")
    # no spanning tree, no learning of multicast groups: adverts reach every port at once
    run(
        *("ip", "-n", SWITCH, "link", "add", BRIDGE, "type", "bridge"),
        *("stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"),
    )
    run("ip", "-n", SWITCH, "link", "set", BRIDGE, "up")
    for host in HOSTS:
        run("ip", "netns", "add", host.namespace)
        run("ip", "-n", host.namespace, "link", "set", "lo", "up")
        _plug(host.name, "eth0", host.namespace, host.addresses)
    _plug("here", HERE, None, [f"10.77.0.{HERE_OCTET}/24", f"fd77::{HERE_OCTET}/64"])


def _plug(port: str, interface: str, namespace: str | None, addresses: list[str]) -> None:
    """A cable between the switch and ``interface`` in ``namespace`` (None: this machine)."""
    there = ["-n", namespace] if namespace else []
    run(
        *("ip", *there, "link", "add", interface, "type", "veth"),
        *("peer", "name", port, "netns", SWITCH),
    )
    run("ip", "-n", SWITCH, "link", "set", port, "master", BRIDGE, "up")
    for address in addresses:
        nodad = ["nodad"] if ":" in address else []
        run("ip", *there, "address", "add", address, "dev", interface, *nodad)
    run("ip", *there, "link", "set", interface, "up")


def down() -> None:
    """Remove all of it."""
    with suppress(LabError):
        run("ip", "link", "delete", HERE)
    for name in namespaces():
        with suppress(LabError):
            run("ip", "netns", "delete", name)


def block(port: str, blocked: bool) -> None:
    """Let nothing through a port of the switch, while its link stays up; or let it through."""
    state = "0" if blocked else "3"
    run("bridge", "-n", SWITCH, "link", "set", "dev", port, "state", state)


def unplug(port: str) -> None:
    """Remove the cable at a port, if there is one."""
    with suppress(LabError):
        run("ip", "-n", SWITCH, "link", "delete", port)


def carrier(port: str, up: bool) -> None:
    """Pull the cable at the switch, or plug it in again."""
    run("ip", "-n", SWITCH, "link", "set", port, "up" if up else "down")
