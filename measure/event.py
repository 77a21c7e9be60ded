"""``python -m measure event``: do one thing to the lab's cluster under load, and judge the result.

The load is 10,000 datagrams a second of numbered flow records from the exporter host to a VIP. What
is done, to which node, what undoes it, and what is good enough are one table. Figures come from the
sender's log and the nodes' stores and ledgers, never from logs of services.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import appliance
from lab import ansible, network
from lab.machine import Machine
from lab.network import HOSTS
from lab.shell import LabError
from measure.cluster import Cluster, data_dir
from measure.judge import judge
from measure.judgement import Judgement, Limits

START_SECONDS = 1.0
"""Until the sender has begun."""
MOST_SECONDS = 900.0
"""Of load, should nothing end it before."""
LEAD_SECONDS = 1.5
"""Of load before the event."""
SETTLE_SECONDS = 60.0
"""How long the cluster may take to be healthy again."""

Act = Callable[[Cluster, Machine], None]


@dataclass(frozen=True, slots=True)
class Event:
    """One row: ``act`` is done to the holder of the VIP, ``undo`` some seconds later."""

    act: Act
    undo: Act | None = None
    undo_after: float = 2.0
    tail: float = 1.5
    """Seconds of load after ``undo``."""
    goals: dict[str, Limits] = field(default_factory=dict)
    """By profile."""
    moves: bool | None = None
    """Whether the VIP has to be elsewhere afterwards, or has to stay; None: either."""
    prepare: Act | None = None
    """Done before the load begins."""


def _unit(verb: str, *words: str) -> Act:
    def act(cluster: Cluster, node: Machine) -> None:
        node.call("systemctl", verb, *words)

    return act


def _signal(name: str, unit: str) -> Act:
    return _unit("kill", f"--signal={name}", unit)


def _drain(cluster: Cluster, node: Machine) -> None:
    node.call("tandem", "drain", node.name, "--no-wait")


def _undrain(cluster: Cluster, node: Machine) -> None:
    node.call("tandem", "drain", node.name, "--undo")


def _kill(cluster: Cluster, node: Machine) -> None:
    node.kill()


def _boot(cluster: Cluster, node: Machine) -> None:
    node.wait_ended()
    node.start()


def _partition(cluster: Cluster, node: Machine) -> None:
    network.block(node.port, True)


def _heal(cluster: Cluster, node: Machine) -> None:
    network.block(node.port, False)


def _both_hold(cluster: Cluster, node: Machine) -> None:
    """A partition, until both sides are convinced that they hold the VIP."""
    _partition(cluster, node)
    cluster.wait(lambda: len(cluster.holders()) > 1, 10, "no node took over in the partition")
    time.sleep(1.0)


def _update(cluster: Cluster, node: Machine) -> None:
    """All nodes to another release: this checkout, with another version."""
    with tempfile.TemporaryDirectory(prefix="tandem-update-") as folder:
        source = Path(folder, "tandem")
        ignored = shutil.ignore_patterns("__pycache__", ".*", "var")
        for part in ("appliance", "api", "requirements"):
            shutil.copytree(ansible.PROJECT / part, source / part, ignore=ignored)
        for part in ("pyproject.toml", "README.md"):
            shutil.copy(ansible.PROJECT / part, source)
        version = source / "appliance/__init__.py"
        text = f'__version__ = "{appliance.__version__}+{time.time_ns()}"'
        version.write_text(re.sub(r'__version__ = ".*"', text, version.read_text()))
        done = subprocess.run(
            ansible.command(
                ansible.INVENTORY, "rolling_update.yml", "-e", f"collector_source={source}"
            ),
            cwd=ansible.PROJECT,
            env=ansible.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise LabError(f"the update failed:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")


def _goals(default: Limits, fast: Limits | None = None) -> dict[str, Limits]:
    return {"default": default, "fast": fast or default}


def _gap(default: float, fast: float) -> dict[str, Limits]:
    return _goals(Limits(max_gap_ms=default), Limits(max_gap_ms=fast))


NOTHING_LOST = _goals(Limits(max_lost=0))
COLLECTOR, API = "tandem-collector.service", "tandem-api.service"

EVENTS: dict[str, Event] = {
    "switchover": Event(_drain, _undrain, goals=NOTHING_LOST, moves=True),
    # with adverts every 0.02 s, a reload lasts longer than three of them: the VIP may move
    "keepalived-reload": Event(_unit("reload", "keepalived"), goals=NOTHING_LOST),
    "keepalived-stop": Event(
        _unit("stop", "--no-block", "keepalived"),
        _unit("start", "keepalived"),
        goals=_gap(15, 5),
        moves=True,
    ),
    "collector-kill": Event(_signal("KILL", COLLECTOR), tail=4.5, goals=NOTHING_LOST, moves=False),
    "collector-hang": Event(
        _signal("STOP", COLLECTOR),
        _signal("CONT", COLLECTOR),
        undo_after=3.0,
        goals=_goals(Limits(max_takeover_ms=1000), Limits(max_takeover_ms=500)),
        moves=True,
    ),
    "node-kill": Event(_kill, _boot, undo_after=1.0, tail=0.5, goals=_gap(60, 60), moves=True),
    "partition": Event(_partition, _heal, goals=_gap(350, 100)),
    "heal": Event(_heal, prepare=_both_hold, goals=_goals(Limits(max_lost=0, max_settled_ms=300))),
    "rolling-update": Event(_update, goals=NOTHING_LOST),
    "api-kill": Event(_signal("KILL", API), tail=3.0, goals=NOTHING_LOST, moves=False),
    "api-hang": Event(_signal("STOP", API), _signal("CONT", API), goals=NOTHING_LOST, moves=False),
}


def measure(cluster: Cluster, event: Event, goals: Limits, port: int, rate: int) -> Judgement:
    """Do it once. LabError when the cluster is not healthy before, or not again afterwards."""
    cluster.wait(cluster.healthy, SETTLE_SECONDS, "the cluster is not healthy")
    holder = cluster.holder()
    try:
        if event.prepare is not None:
            event.prepare(cluster, holder)
        with tempfile.TemporaryDirectory(prefix="tandem-measure-") as folder:
            log = Path(folder, "load.npz")
            event_ns, held = _load_and_act(cluster, holder, event, log, port, rate)
            cluster.wait(cluster.healthy, SETTLE_SECONDS, "the cluster did not become healthy")
            nodes = {node.name: data_dir(node) for node in cluster.nodes}
            found = judge([log], nodes, event_ns=event_ns, limits=goals)
    finally:
        # whatever happened, the next run begins with a whole cluster
        _restore(cluster, holder)
    if goals.max_settled_ms is not None:
        found.settled_ms = _settled_ms(found, event_ns)
        found.exceeded = goals.exceeded(found)
    if event.moves is not None and event.moves != (held != [holder.name]):
        there = ", ".join(held) or "no node"
        found.exceeded.append(f"the VIP was at {there}, from {holder.name}, after the event")
    return found


def _load_and_act(
    cluster: Cluster, holder: Machine, event: Event, log: Path, port: int, rate: int
) -> tuple[int, list[str]]:
    """Send, act, undo; when that was (ns since 1970), and who then held the VIP."""
    exporter = HOSTS[0]
    command = [
        *(sys.executable, "-m", "measure", "send", cluster.vip, str(port)),
        *("--netns", exporter.namespace, "--rate", str(rate), "--seconds", str(MOST_SECONDS)),
        *("--log", str(log)),
    ]
    sender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(START_SECONDS + LEAD_SECONDS)
        event_ns = time.time_ns()
        event.act(cluster, holder)
        if event.undo is None:
            time.sleep(event.tail)
            held = [node.name for node in cluster.holders()]
        else:
            time.sleep(event.undo_after)
            held = [node.name for node in cluster.holders()]
            event.undo(cluster, holder)
            time.sleep(event.tail)
        sender.terminate()
        sender.communicate(timeout=30)
    finally:
        if sender.poll() is None:
            sender.kill()
            sender.wait()
    if sender.returncode:
        raise LabError(f"the sender ended with status {sender.returncode}")
    return event_ns, held


def _settled_ms(found: Judgement, event_ns: int) -> float:
    """From the event to the last datagram of the node that has none any more."""
    last = [n.last_ns for load in found.loads for n in load.nodes.values() if n.last_ns]
    return round(max(min(last) - event_ns, 0) / 1e6, 1) if len(last) > 1 else 0.0


def _restore(cluster: Cluster, holder: Machine) -> None:
    with suppress(LabError):
        network.block(holder.port, False)
    if holder.leader is None:
        _boot(cluster, holder)
    for unit in (COLLECTOR, API):
        with suppress(LabError):
            holder.call("systemctl", "kill", "--signal=CONT", unit)
    with suppress(LabError):
        holder.call("systemctl", "start", "keepalived")
        holder.call("tandem", "drain", holder.name, "--undo")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m measure event",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("event", choices=sorted(EVENTS), nargs="+")
    parser.add_argument("--runs", type=int, default=1, help="times each is done (default 1)")
    parser.add_argument("--vip", default="10.77.0.101", help="where the load goes")
    parser.add_argument("--port", type=int, default=2055)
    parser.add_argument("--rate", type=int, default=10_000, help="datagrams/s (default 10000)")
    parser.add_argument("--profile", choices=("default", "fast"), default="default")
    parser.add_argument(
        "--slack", type=float, default=1, metavar="FACTOR", help="allow times so much longer"
    )
    parser.add_argument("--scenario", default="lab", help="the first part of the results' names")
    parser.add_argument("--results", type=Path, help="folder for a JSON file of each run")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Do each event so many times; the status is 1 when a goal was missed."""
    chosen = _arguments(argv)
    try:
        cluster = Cluster.of_lab(chosen.vip)
        missed = 0
        for name in chosen.event:
            for number in range(1, chosen.runs + 1):
                event, began = EVENTS[name], time.monotonic()
                goals = event.goals[chosen.profile].slack(chosen.slack)
                found = measure(cluster, event, goals, chosen.port, chosen.rate)
                missed += not found.passed
                _say(name, number, found, time.monotonic() - began)
                if chosen.results:
                    chosen.results.mkdir(parents=True, exist_ok=True)
                    file = f"{chosen.scenario}_{chosen.profile}-{name}-{number}.json"
                    (chosen.results / file).write_text(json.dumps(found.document(), indent=1))
    except LabError as error:
        sys.stderr.write(f"measure: {error}\n")
        return 1
    return int(missed > 0)


def _say(name: str, number: int, found: Judgement, seconds: float) -> None:
    took = "" if found.takeover_ms is None else f", elsewhere after {found.takeover_ms:.0f} ms"
    if found.settled_ms is not None:
        took += f", settled after {found.settled_ms:.0f} ms"
    held = f"{found.held:,} held, " if found.held else ""
    sys.stdout.write(
        f"{name} {number}: {found.sent:,} sent, {found.lost:,} lost, {held}"
        f"gap {found.longest_gap_ms:.1f} ms{took}: "
        f"{'passed' if found.passed else 'FAILED'} ({seconds:.0f} s)\n"
    )
    for reason in (*found.problems, *found.exceeded):
        sys.stdout.write(f"  ! {reason}\n")
    sys.stdout.flush()
