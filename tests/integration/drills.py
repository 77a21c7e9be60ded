"""Nodes with real keepalived, real collectors and the unit that makes faults, and a client."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from appliance.drill.streams import NUMBER_SQL
from appliance.query.engine import Engine
from tests.integration.cluster import TOKEN, Node
from tests.integration.harness import wait_for
from tests.integration.vips import ADDRESSES, SWITCH, Lab, Network, ip

VIP = "10.99.0.101"
PROBE = "probe"

# what the service manager would do, for the programs of one node
SYSTEMCTL = """#!/bin/sh
cd {folder}
echo "$@" >> systemctl.log
case "$*" in
    "stop --no-block keepalived.service") kill -TERM $(cat keepalived.pid) ;;
    "start keepalived.service")
        test -e keepalived.pid && exit 0
        TMPDIR={folder} keepalived --dont-fork -l -f keepalived.conf -p {folder}/keepalived.pid \
            -r {folder}/vrrp.pid -D >> keepalived.log 2>&1 < /dev/null & ;;
    "kill --signal=SIGKILL tandem-collector.service") kill -KILL -$(cat collector.pid) ;;
    "start tandem-collector.service")
        setsid {python} -m appliance.cli collect --config collector.toml \
            >> collector.log 2>&1 < /dev/null &
        echo $! > collector.pid ;;
    *) exit 1 ;;
esac
"""
COLLECTOR = """
data_dir = "data"
[node]
name = "{name}"
[[listener]]
address = "0.0.0.0"
port = 2055
[receive]
shards = 2
receive_buffer = 8388608
[store]
flush_seconds = 0.2
reserve_bytes = 0
"""


class DrillLab(Lab):
    """As :class:`Lab`, with all that a drill needs."""

    def __init__(self, folder: Path, addresses: dict[str, str] = ADDRESSES) -> None:
        super().__init__(folder, addresses)
        self.folder = folder
        self.faults: dict[str, subprocess.Popen[bytes]] = {}
        self.client: subprocess.Popen[bytes] | None = None
        space = Network.of(PROBE)
        ip("netns", "add", space)
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "link", "add", "name", "host0", "type", "veth", "peer", "name", PROBE)
        ip("-n", space, "link", "set", PROBE, "netns", SWITCH)
        ip("-n", SWITCH, "link", "set", PROBE, "master", "br", "up")
        ip("-n", space, "addr", "add", "10.99.0.9/24", "dev", "host0")
        ip("-n", space, "link", "set", "host0", "up")

    def start(self) -> None:
        for node in self.nodes.values():
            self._prepare(node)
            self.systemctl(node, "start", "tandem-collector.service")
            self.start_fault(node)
        for node in self.nodes.values():
            wait_for((node.folder / "data" / "node.json").exists, 30, "the collector")
            wait_for((node.folder / "fault.sock").exists, 20, "tandem-fault")
        super().start()

    def _prepare(self, node: Node) -> None:
        node.write_config(address="0.0.0.0")
        (node.folder / "collector.toml").write_text(COLLECTOR.format(name=node.name))
        (node.folder / "bin").mkdir()
        program = node.folder / "bin" / "systemctl"
        program.write_text(SYSTEMCTL.format(folder=node.folder, python=sys.executable))
        program.chmod(0o755)

    def environment(self, node: Node) -> dict[str, str]:
        path = f"{node.folder / 'bin'}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[2])}

    def systemctl(self, node: Node, *words: str) -> None:
        subprocess.run(
            ["ip", "netns", "exec", node.namespace, "systemctl", *words],
            env=self.environment(node),
            check=True,
        )

    def start_fault(self, node: Node) -> None:
        command = [sys.executable, "-m", "appliance.fault", "--state", str(node.folder)]
        command += ["--config", str(node.folder / "tandem.toml")]
        with (node.folder / "fault.log").open("ab") as log:
            self.faults[node.name] = subprocess.Popen(
                ["ip", "netns", "exec", node.namespace, *command],
                env=self.environment(node), stdout=log, stderr=log,
            )  # fmt: skip

    def vips_on_lo(self) -> None:
        """As on a real node; only who holds a VIP answers for it."""
        for name in self.nodes:
            space = Network.of(name)
            for key, value in (("arp_ignore", 1), ("arp_announce", 2)):
                sysctl = f"net.ipv4.conf.all.{key}={value}"
                subprocess.run(["ip", "netns", "exec", space, "sysctl", "-q", sysctl], check=True)
            ip("-n", space, "addr", "add", f"{VIP}/32", "dev", "lo")

    def start_client(self) -> None:
        with (self.folder / "client.log").open("ab") as log:
            self.client = subprocess.Popen(
                ["ip", "netns", "exec", Network.of(PROBE), sys.executable, "-m", "appliance.cli",
                 "drill", "client", "--name", PROBE, "--url", f"http://{VIP}:8080"],
                env={**os.environ, "TANDEM_TOKEN": TOKEN}, stdout=log, stderr=log,
            )  # fmt: skip

    def end_client(self) -> None:
        if self.client is not None:
            self.client.kill()
            self.client.wait()
            self.client = None

    def numbers(self, name: str, domain: int, since_ns: int) -> np.ndarray[Any, Any]:
        """The numbers of the records of a load that the node has, each as often as it is there."""
        with Engine(self.nodes[name].folder / "data") as engine:
            table = engine.execute(
                f"SELECT {NUMBER_SQL} AS number FROM flows WHERE observation_domain = {domain} "
                f"AND received_ns >= {since_ns}"
            )
        return np.asarray(table["number"].to_numpy())

    def close(self) -> None:
        self.end_client()
        for process in self.faults.values():
            process.terminate()
            process.wait(20)
        for node in self.nodes.values():
            for name, group in (("collector.pid", True), ("keepalived.pid", False)):
                try:
                    pid = int((node.folder / name).read_text())
                    os.kill(-pid if group else pid, signal.SIGKILL if group else signal.SIGTERM)
                except (FileNotFoundError, ProcessLookupError, ValueError):
                    continue
        super().close()
        subprocess.run(["ip", "netns", "del", Network.of(PROBE)], capture_output=True)


def usable() -> bool:
    return os.geteuid() == 0 and all(map(shutil.which, ("keepalived", "nft")))
