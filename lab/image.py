"""The base image of nodes: a plain Debian, and what the roles install into it.

Both are cached, each under a name that says what it is made of; the image of today's roles is
found, or made. No service starts, because nothing runs in a root that is only a folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lab import ansible
from lab.machine import progress
from lab.shell import LabError, run

CACHE = Path("/var/cache/tandem-lab")
SUITES = ("trixie", "bookworm")
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "iproute2", "procps", "python3", "python3-apt"),
    *("ca-certificates", "iperf3"),
)
"""A Debian as an installer leaves it, which Ansible can work with; iperf3 is of the lab."""


def ready(suite: str) -> Path:
    """The image for the present roles; made where it is missing. Takes a minute or two then."""
    image = CACHE / suite / _digest(suite)
    if image.is_dir():
        return image
    plain = CACHE / suite / f"plain-{_of(suite, *PACKAGES)}"
    if not plain.is_dir():
        progress(f"a plain Debian ({suite})")
        _bootstrap(suite, plain)
    progress("what the roles install, into the image")
    partial = image.with_suffix(".partial")
    remove(partial)
    run("cp", "--archive", "--reflink=auto", str(plain), str(partial))
    try:
        _install(partial)
    except BaseException:
        remove(partial)
        raise
    partial.rename(image)
    for old in image.parent.iterdir():
        if old not in (image, plain) and old.suffix != ".partial" and not _used(old):
            remove(old)
    return image


def _of(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _digest(suite: str) -> str:
    """Says what the image is made of: equal for equal installing tasks and requirements."""
    files = [
        ansible.PROJECT / "requirements/runtime.txt",
        ansible.PROJECT / "playbooks/image.yml",
        Path(__file__),
    ]
    for part in ("tasks/install.yml", "defaults/main.yml", "tasks/dependencies.yml"):
        files += sorted(ansible.PROJECT.glob(f"roles/*/{part}"))
    return _of(suite, *PACKAGES, *(path.read_text() for path in files))


def _bootstrap(suite: str, target: Path) -> None:
    partial = target.with_suffix(".partial")
    remove(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    main, security = _mirrors()
    keyrings = [p for p in ("/usr/share/keyrings/debian-archive-keyring.gpg",) if Path(p).exists()]
    run(
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
        *(f"--keyring={path}" for path in keyrings),
        *(f"--aptopt={line}" for line in _apt_settings()),
        *(suite, str(partial)),
        f"deb {main} {suite} main",
        f"deb {main} {suite}-updates main",
        f"deb {security} {suite}-security main",
    )
    partial.rename(target)


def _mirrors() -> tuple[str, str]:
    """The archive and its security updates, from where this machine has its own packages."""
    text = "".join(
        path.read_text()
        for path in (
            *Path("/etc/apt/sources.list.d").glob("*.[ls]*"),
            Path("/etc/apt/sources.list"),
        )
        if path.exists()
    )
    found = re.findall(r"^(?:URIs:|deb(?: \[.*\])?)\s+(\S+)", text, re.MULTILINE)
    main = [uri for uri in found if uri.rstrip("/").endswith("/debian")]
    security = [uri for uri in found if uri.rstrip("/").endswith("/debian-security")]
    if not main or not security:
        raise LabError(
            "/etc/apt names no mirror of Debian with its security updates, to make nodes from"
        )
    return main[0], security[0]


def _apt_settings() -> list[str]:
    """How this machine reaches its mirror: proxies, and whether the mirror's dates count."""
    lines = run("apt-config", "dump", "Acquire").splitlines()
    wanted = re.compile(r"Acquire::(Check-|https?::(Proxy|CAInfo|Verify))")
    return [line for line in lines if wanted.match(line) and not line.endswith('"";')]


@contextmanager
def _usable(root: Path) -> Iterator[None]:
    """Let programs run in ``root``, with this machine's network, and nothing start there."""
    given = {
        "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
        "etc/apt/apt.conf.d/00lab": "\n".join(_apt_settings()) + "\n",
    }
    resolver = root / "etc/resolv.conf"
    resolver.unlink(missing_ok=True)
    shutil.copy("/etc/resolv.conf", resolver)
    for name, text in given.items():
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    mounts = {"proc": ("-t", "proc", "proc"), "dev": ("--rbind", "--make-rslave", "/dev")}
    try:
        for name, how in mounts.items():
            run("mount", *how, str(root / name))
        yield
    finally:
        for name in mounts:
            with suppress(LabError):
                run("umount", "--recursive", "--lazy", str(root / name))
        for name in (*given, "etc/resolv.conf"):
            (root / name).unlink(missing_ok=True)


def _install(root: Path) -> None:
    command = ansible.command(f"{root},", "image.yml", "-c", "community.general.chroot")
    with _usable(root):
        run("chroot", str(root), "apt-get", "--quiet=2", "update")
        environment = os.environ | {"ANSIBLE_DISPLAY_OK_HOSTS": "false"}
        done = subprocess.run(
            command, cwd=ansible.PROJECT, env=environment, stdout=sys.stderr, check=False
        )
        if done.returncode:
            raise LabError("the roles could not be installed into the image: see above")
    for path in (root / "etc/machine-id", *root.glob("var/lib/apt/lists/*_*")):
        path.unlink()
    # empty, so that each node gets one of its own at its first boot
    (root / "etc/machine-id").touch()


def _used(image: Path) -> bool:
    return f"lowerdir={image}," in Path("/proc/mounts").read_text()


def remove(root: Path) -> None:
    """Remove an image; refused while something is mounted below it."""
    if f" {root}/" in Path("/proc/mounts").read_text():
        raise LabError(f"something is mounted below {root}: umount it")
    shutil.rmtree(root, ignore_errors=True)
