"""Real exporters on real traffic: iperf3 between two hosts of the lab, softflowd and pmacctd.

They run on the exporter host and report what its interface sees: softflowd NetFlow v9 and IPFIX to
the first VIP, pmacctd sFlow to the second.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from demo.exporters import Exporter
from lab.network import HOSTS, Host
from lab.shell import LabError, need

STATE = Path("/run/tandem-lab.exporters")
RATE = "20M"
VIPS = ("10.77.0.101", "10.77.0.102")
EXPORTERS = (
    (Exporter("softflowd", "NetFlow v9", 2055), VIPS[0]),
    (Exporter("softflowd", "IPFIX", 4739), VIPS[0]),
    (Exporter("pmacctd", "sFlow", 6343), VIPS[1]),
)


def start() -> None:
    """Start them all; LabError when one ends at once."""
    need(("iperf3", "softflowd", "pmacctd"), "iperf3 softflowd pmacct")
    exporter, client = HOSTS
    STATE.mkdir(parents=True, exist_ok=True)
    _spawn(client, "iperf3-server", ["iperf3", "--server"])
    time.sleep(0.3)
    target = client.addresses[0].partition("/")[0]
    forever = ["--time", "0", "--parallel", "2"]
    _spawn(exporter, "iperf3", ["iperf3", "--client", target, "--bitrate", RATE, *forever])
    for number, (one, vip) in enumerate(EXPORTERS):
        folder = STATE / str(number)
        folder.mkdir(exist_ok=True)
        _spawn(exporter, f"{one.program}-{number}", one.command("eth0", vip, folder))
    time.sleep(1.0)
    for path in STATE.glob("*.pid"):
        if not _runs(int(path.read_text())):
            said = path.with_suffix(".log").read_text(errors="replace").strip()
            stop()
            raise LabError(f"{path.stem} ended at once: {said}")


def _spawn(host: Host, name: str, command: list[str]) -> None:
    with open(STATE / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{host.namespace}", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (STATE / f"{name}.pid").write_text(str(process.pid))


def stop() -> None:
    """End those that run."""
    for path in STATE.glob("*.pid"):
        pid = int(path.read_text())
        if _runs(pid):
            # the whole group: pmacctd has a process for each of its plug-ins
            os.killpg(pid, signal.SIGTERM)
    deadline = time.monotonic() + 3
    pids = [int(path.read_text()) for path in STATE.glob("*.pid")]
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in pids:
        if _runs(pid):
            os.killpg(pid, signal.SIGKILL)
    shutil.rmtree(STATE, ignore_errors=True)


def _runs(pid: int) -> bool:
    """Whether the leader of a session that was started here is there, and is no zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] != "Z" and fields[3] == str(pid)
