"""``python -m measure benchmark``: throughput and load to a VIP, idle and while the VIP moves.

For TCP and UDP, and for each of the cases: iperf3 from the exporter host to the VIP, whose servers
run on all nodes, beside a load of numbered flow records. Files are as ``measure plot`` reads them.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from lab.network import HOSTS
from lab.shell import LabError
from measure import iperf
from measure.cluster import Cluster
from measure.event import EVENTS, SETTLE_SECONDS, Event, measure
from measure.judgement import Limits

IDLE = Event(lambda cluster, node: None, tail=6.0, moves=False)
CASES = {"idle": IDLE, "switchover": EVENTS["switchover"], "node-kill": EVENTS["node-kill"]}
SERVER = "iperf3-benchmark.service"
"""As playbooks/benchmark.yml makes it."""
SECONDS = 8.0
"""Of iperf3; the event is 2.5 s after its start."""


def main(argv: list[str]) -> int:
    """Measure all cases; the status is 1 when something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m measure benchmark", description=__doc__)
    parser.add_argument("--vip", default="10.77.0.101")
    parser.add_argument("--rate", type=int, default=10_000, help="datagrams/s of the load")
    parser.add_argument("--udp-rate", default="200M", help="of iperf3 (default 200M)")
    parser.add_argument("--results", type=Path, required=True, help="folder for the figures")
    chosen = parser.parse_args(argv)
    chosen.results.mkdir(parents=True, exist_ok=True)
    try:
        cluster = Cluster.of_lab(chosen.vip)
        for transport, udp_rate in (("tcp", None), ("udp", chosen.udp_rate)):
            for name, event in CASES.items():
                _case(cluster, f"{transport}-{name}", event, udp_rate, chosen)
    except LabError as error:
        sys.stderr.write(f"measure: {error}\n")
        return 1
    return 0


def _case(
    cluster: Cluster, name: str, event: Event, udp_rate: str | None, chosen: argparse.Namespace
) -> None:
    sys.stdout.write(f"{name} …\n")
    sys.stdout.flush()
    cluster.wait(cluster.healthy, SETTLE_SECONDS, "the cluster is not healthy")
    for node in cluster.nodes:
        # a server whose client was cut off by the case before waits for it, and takes no other
        node.call("systemctl", "restart", SERVER)
    with ThreadPoolExecutor(1) as beside:
        throughput = beside.submit(
            iperf.measure,
            chosen.vip,
            5201,
            SECONDS,
            netns=HOSTS[0].namespace,
            udp_rate=udp_rate,
        )
        judgement = measure(cluster, event, Limits(), 2055, chosen.rate)
        measured = throughput.result()
    if not measured.steps:
        raise LabError(f"iperf3 got nothing through: {'; '.join(measured.errors)}")
    (chosen.results / f"{name}.iperf.json").write_text(json.dumps(asdict(measured)))
    (chosen.results / f"{name}.judge.json").write_text(json.dumps(judgement.document()))
