"""Tables of repeated runs, iperf3 with an event meanwhile, and the report with plots."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from measure import iperf, report
from measure.judgement import Judgement, Limits
from tests.integration.harness import free_port, wait_for


def judged(lost: int, gap_ms: float, limits: Limits) -> str:
    found = Judgement(
        sent=1000,
        stored=1000 - lost,
        lost=lost,
        held=0,
        stored_twice=0,
        on_two_nodes=0,
        longest_gap_ms=gap_ms,
        takeover_ms=gap_ms + 1,
        event_ns=None,
        limits=limits,
        loads=[],
    )
    found.exceeded = limits.exceeded(found)
    return json.dumps(found.document())


def test_repeated_runs_are_a_row(tmp_path: Path):
    for number, (lost, gap) in enumerate([(3, 20.04), (5, 70.0), (4, 30.0)], 1):
        path = tmp_path / f"failover-node_killed-{number}.json"
        path.write_text(judged(lost, gap, Limits(max_gap_ms=60)))
    (tmp_path / "failover-api-killed-1.json").write_text(judged(0, 0, Limits(max_lost=0)))
    (tmp_path / "other.json").write_text("{}")
    (table,) = report.tables(tmp_path)
    assert table.title == "failover"
    assert table.rows == [
        ["api killed", "0 lost", "1", "0 / 0", "0 / 0", "1 / 1", "–", "pass"],
        [
            "node killed", "≤ 60 ms gap", "3", "4 / 5", "30 / 70", "31 / 71", "–", "**fail** (1)",
        ],
    ]  # fmt: skip
    output = tmp_path / "out.md"
    assert report.main([str(tmp_path), "--output", str(output)]) == 1
    assert "| node killed | ≤ 60 ms gap |" in output.read_text()


@pytest.fixture
def server() -> Iterator[int]:
    if not shutil.which("iperf3"):
        pytest.skip("no iperf3 here")
    port = free_port(socket.SOCK_STREAM)
    command = ["iperf3", "--server", "--port", str(port), "--json", "--interval", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    listening = f":{port:04X} 00000000000000000000000000000000:0000 0A"
    wait_for(lambda: listening in Path("/proc/net/tcp6").read_text(), 10, "the server")
    yield port
    process.kill()
    process.wait()


@pytest.mark.parametrize("udp_rate", [None, "10M"])
def test_throughput_is_measured_with_an_event_meanwhile(server: int, udp_rate: str | None):
    found = iperf.measure(
        "127.0.0.1", server, 2, udp_rate=udp_rate, at_seconds=0.5, command=["true"]
    )
    assert found.event is not None
    assert found.event.status == 0
    assert 0.4e9 < found.event.begin_ns - found.begin_ns < 2e9
    assert len(found.steps) >= 15
    assert sum(size for _, _, size in found.steps) > 1e6
    assert all(first < last for first, last, _ in found.steps)
    assert found.measured_by == ("server" if udp_rate else "client")


def test_a_client_that_loses_its_server_is_started_again(server: int):
    """The event ends the test's first connection, as a VIP that moves would."""
    kill = f"ss --kill --tcp dst 127.0.0.1 dport = {server}"
    found = iperf.measure(
        "127.0.0.1", server, 3, at_seconds=1, command=["sh", "-c", f"{kill} >/dev/null"]
    )
    if found.event is None or found.event.status != 0:
        pytest.skip("connections cannot be ended here")
    assert found.clients >= 2
    assert found.errors
    assert found.steps[-1][1] > found.event.end_ns + 1e9


def test_the_report_has_a_plot_for_each_case(tmp_path: Path):
    pytest.importorskip("matplotlib")
    throughput = {
        "begin_ns": 0,
        "steps": [(0, 10**8, 10**6), (10**8, 2 * 10**8, 0), (3 * 10**8, 4 * 10**8, 10**6)],
        "event": {"begin_ns": 10**8},
    }
    series = {"begin_ns": 0, "step_ms": 100, "sent": [9, 9, 3], "stored": {"n1": [9, 0, 3]}}
    judgement = {"sent": 21, "lost": 9, "longest_gap_ms": 100.0, "takeover_ms": None}
    judgement |= {"event_ns": None, "loads": [{"series": series}]}
    (tmp_path / "kill.iperf.json").write_text(json.dumps(throughput))
    (tmp_path / "kill.judge.json").write_text(json.dumps(judgement))
    (tmp_path / "idle.iperf.json").write_text(json.dumps(throughput | {"event": None}))
    command = [sys.executable, "-m", "measure", "plot", str(tmp_path), "--title", "Lab"]
    subprocess.run(command, check=True)
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# Lab\n")
    assert "| kill | 40 | 0 | 200 | 21 | 9 | 100.0 | – |" in text
    assert "![idle](idle.svg)" in text
    assert all("<svg" in (tmp_path / f"{name}.svg").read_text() for name in ("kill", "idle"))


def test_slack_is_for_times_and_not_for_losses() -> None:
    goals = Limits(max_lost=0, max_gap_ms=15, max_settled_ms=300)
    assert goals.slack(4) == Limits(max_lost=0, max_gap_ms=60, max_settled_ms=1200)
