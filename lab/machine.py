"""One node: a systemd-nspawn machine on an overlay of the base image."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lab import cgroup, network
from lab.shell import LabError, run

STATE = Path("/var/lib/tandem-lab")
"""A folder a node: its changes to the image, its console, the pid of its first process."""
START_SECONDS = 60.0
STOP_SECONDS = 20.0

_ADDRESS = """[Match]
Name=host0
[Network]
Address={address}/24
LinkLocalAddressing=ipv6
IPv6AcceptRA=no
LLMNR=no
# the address must not go and come while networkd restarts
KeepConfiguration=yes
[Address]
Address=fd77::{octet}/64
DuplicateAddressDetection=none
"""
_WAIT = """[Service]
ExecStart=
ExecStart=/usr/lib/systemd/systemd-networkd-wait-online --interface=host0:routable --timeout=10
"""
_QUIET = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("e2scrub_reap.service", "systemd-resolved.service", "dpkg-db-backup.timer"),
)
"""Units that a lab needs not, and that would wake up during a measurement."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The node ``name``."""

    name: str

    @property
    def folder(self) -> Path:
        """All that is known and kept of it."""
        return STATE / self.name

    @property
    def root(self) -> Path:
        """Its file system, while it is mounted."""
        return self.folder / "root"

    @property
    def port(self) -> str:
        """Its port of the switch (a name that systemd-nspawn gives)."""
        return f"vb-{self.name}"

    @property
    def leader(self) -> int | None:
        """The pid of its PID 1 here; None while it does not run."""
        try:
            pid = int((self.folder / "leader").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if _alive(pid) else None

    def create(self, image: Path, address: str) -> None:
        """Lay a fresh file system over ``image`` and give it an address, as an installer would."""
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "image").write_text(str(image))
        self._mount()
        etc = self.root / "etc"
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{address} {self.name}\n::1 localhost\n")
        units = etc / "systemd" / "system"
        octet = address.rsplit(".", 1)[1]
        for path, text in {
            etc / "systemd/network/10-host0.network": _ADDRESS.format(address=address, octet=octet),
            units / "systemd-networkd-wait-online.service.d/lab.conf": _WAIT,
        }.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for unit in ("systemd-networkd.service", "systemd-networkd-wait-online.service"):
            wants = units / "multi-user.target.wants" / unit
            wants.parent.mkdir(exist_ok=True)
            if not wants.is_symlink():
                wants.symlink_to(f"/usr/lib/systemd/system/{unit}")
        for unit in _QUIET:
            if not (units / unit).is_symlink():
                (units / unit).symlink_to("/dev/null")

    def _mount(self) -> None:
        if self.root.is_mount():
            return
        image = (self.folder / "image").read_text()
        layers = f"lowerdir={image},upperdir={self.folder}/upper,workdir={self.folder}/work"
        run("mount", "-t", "overlay", f"tandem-lab-{self.name}", "-o", layers, str(self.root))

    def start(self) -> None:
        """Boot it, and wait until its units run. LabError with its console when they do not."""
        if self.leader is not None:
            return
        if not (self.folder / "image").exists():
            raise LabError(f"there is no node {self.name}: python -m lab up creates it")
        self._mount()
        (self.folder / "leader").unlink(missing_ok=True)
        # after a kill, the kernel takes its time to remove the link of the namespace that is gone
        network.unplug(self.port)
        command = [
            *("nsenter", f"--net=/run/netns/{network.SWITCH}", "systemd-nspawn", "--quiet"),
            *(f"--directory={self.root}", f"--machine={self.name}", "--boot"),
            *(f"--network-bridge={network.BRIDGE}", "--register=no", "--keep-unit"),
            "--console=pipe",
        ]
        with open(self.folder / "console.log", "ab") as console:
            spawned = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                preexec_fn=lambda: cgroup.enter(self.name),
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and spawned.poll() is None:
            leader = _first_process(spawned.pid)
            if leader is not None:
                (self.folder / "leader").write_text(str(leader))
                (self.folder / "nspawn").write_text(str(spawned.pid))
                said = self.call("systemctl", "is-system-running", check=False).strip()
                if said in ("running", "degraded"):
                    return
            time.sleep(0.05)
        lines = (self.folder / "console.log").read_text(errors="replace").splitlines()[-15:]
        self.kill()
        raise LabError(f"{self.name} does not start; its console says:\n" + "\n".join(lines))

    def call(self, *command: str, check: bool = True) -> str:
        """Run ``command`` in the node, as its root; its stdout."""
        leader = self.leader
        if leader is None:
            raise LabError(f"{self.name} does not run: python -m lab start {self.name}")
        return run("nsenter", "-a", "-t", str(leader), *command, check=check)

    def kill(self) -> None:
        """Take its power away: its link goes down, and all its processes end, at once."""
        with contextlib.suppress(LabError):
            network.carrier(self.port, up=False)
        for name in ("leader", "nspawn"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
                os.kill(int((self.folder / name).read_text()), signal.SIGKILL)

    def stop(self) -> None:
        """Shut it down cleanly, or kill it when that takes too long."""
        leader = self.leader
        if leader is not None:
            os.kill(leader, signal.SIGRTMIN + 4)  # systemd(1): halt
            deadline = time.monotonic() + STOP_SECONDS
            while _alive(leader) and time.monotonic() < deadline:
                time.sleep(0.02)
        self.wait_ended()

    def wait_ended(self) -> None:
        """Until nothing of it runs: what is left is killed."""
        deadline = time.monotonic() + STOP_SECONDS
        while self._running() and time.monotonic() < deadline:
            self.kill()
            time.sleep(0.02)
        (self.folder / "leader").unlink(missing_ok=True)

    def _running(self) -> bool:
        try:
            return _alive(int((self.folder / "nspawn").read_text()))
        except (FileNotFoundError, ValueError):
            return False

    def destroy(self) -> None:
        """Kill it and remove all that is kept of it."""
        self.kill()
        self.wait_ended()
        if self.root.is_mount():
            run("umount", "--recursive", str(self.root), check=False)
            if self.root.is_mount():
                run("umount", "--recursive", "--lazy", str(self.root))
        shutil.rmtree(self.folder, ignore_errors=True)
        cgroup.remove(self.name)


def existing() -> list[Machine]:
    """The nodes that were created."""
    return [Machine(path.name) for path in sorted(STATE.glob("*")) if path.is_dir()]


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # a zombie waits for its parent only


def _first_process(nspawn: int) -> int | None:
    """The child of systemd-nspawn that is PID 1 of a namespace of its own."""
    try:
        children = Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()
        ours = os.readlink("/proc/self/ns/pid")
        for child in children:
            if os.readlink(f"/proc/{child}/ns/pid") != ours:
                return int(child)
    except FileNotFoundError:
        pass
    return None


_BEGAN = time.monotonic()


def progress(text: str) -> None:
    """One line for who waits, with the seconds since the start."""
    sys.stderr.write(f"lab: {time.monotonic() - _BEGAN:3.0f} s  {text}\n")
