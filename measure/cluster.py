"""The lab's cluster as a measurement sees it: who holds a VIP by the kernel, and who is well."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import machine
from lab.machine import Machine
from lab.shell import LabError


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes, and the VIP that the load goes to."""

    nodes: tuple[Machine, ...]
    vip: str

    @classmethod
    def of_lab(cls, vip: str) -> Cluster:
        """All machines that have Tandem's data; LabError when there are fewer than two."""
        nodes = [one for one in machine.existing() if data_dir(one).is_dir()]
        if len(nodes) < 2:
            raise LabError("there is no cluster here: make cluster makes one")
        return cls(tuple(nodes), vip)

    def holders(self) -> list[Machine]:
        """The nodes that have the VIP on an interface other than lo."""
        return [node for node in self.nodes if self._holds(node)]

    def _holds(self, node: Machine) -> bool:
        if node.leader is None:
            return False
        links = json.loads(node.call("ip", "-json", "address", "show", check=False) or "[]")
        return any(
            address.get("local") == self.vip
            for link in links
            if link.get("ifname") != "lo"
            for address in link.get("addr_info", ())
        )

    def holder(self) -> Machine:
        """The one that holds it; waits until it is one."""
        self.wait(lambda: len(self.holders()) == 1, 20, f"no single node holds {self.vip}")
        return self.holders()[0]

    def healthy(self) -> bool:
        """Whether every node runs, has proven its collector, and is not drained."""
        return all(self._healthy(node) for node in self.nodes)

    def _healthy(self, node: Machine) -> bool:
        if node.leader is None:
            return False
        script = (
            "systemctl is-active --quiet tandem-collector tandem-health tandem-api keepalived "
            "&& cat /run/tandem/health /var/lib/tandem-api/drain"
        )
        return node.call("sh", "-c", script, check=False).split() == ["0", "0"]

    def wait(self, true: Callable[[], bool], seconds: float, trouble: str) -> None:
        """Until ``true()``; LabError with ``trouble`` when it does not become so in time."""
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                raise LabError(f"{trouble} after {seconds:g} s")
            time.sleep(0.05)


def data_dir(node: Machine) -> Path:
    """Its collector's data, seen from here."""
    return node.root / "var/lib/tandem"
