"""Ansible connection to a node of the lab: enter its namespaces by the pid of its first process."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: nspawn
author: Tandem
short_description: Run tasks in a systemd-nspawn machine on this host
description:
  - Enters all namespaces of the first process with nsenter(1); needs no SSH and no network.
  - Needs root on this host.
options:
  leader_file:
    description: File on this host with the pid of the machine's first process.
    type: path
    default: /var/lib/tandem-lab/{inventory_hostname}/leader
    vars:
      - name: nspawn_leader_file
"""

_ENVIRONMENT = (
    "HOME=/root",
    "LANG=C.UTF-8",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)


class Connection(ConnectionBase):
    """One machine; a task is one nsenter."""

    transport = "nspawn"
    has_pipelining = True

    def _connect(self) -> Connection:
        name = self._play_context.remote_addr
        path = Path(self.get_option("leader_file").replace("{inventory_hostname}", name))
        try:
            self._leader = int(path.read_text())
        except (OSError, ValueError):
            raise AnsibleConnectionFailure(f"{name} does not run: there is no {path}") from None
        if not Path(f"/proc/{self._leader}/root/etc").is_dir():
            raise AnsibleConnectionFailure(f"{name} does not run: its process is gone")
        self._connected = True
        return self

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        command = ["nsenter", "-a", "-t", str(self._leader), "--", "/usr/bin/env", "-i"]
        command += [*_ENVIRONMENT, "/bin/sh", "-c", cmd]
        done = subprocess.run(command, input=in_data or b"", capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        super().put_file(in_path, out_path)
        shutil.copyfile(in_path, self._inside(out_path))

    def fetch_file(self, in_path: str, out_path: str) -> None:
        super().fetch_file(in_path, out_path)
        shutil.copyfile(self._inside(in_path), out_path)

    def _inside(self, path: str) -> str:
        return f"/proc/{self._leader}/root/{path.lstrip('/')}"

    def close(self) -> None:
        self._connected = False
