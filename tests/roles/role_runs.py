"""Runs a role's task files on this machine, with ansible-playbook and a small inventory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")


@dataclass(frozen=True)
class Outcome:
    """What a run of ansible-playbook did."""

    changed: int
    failed: int
    output: str


def run_role(
    directory: Path,
    role: str,
    task_files: list[str],
    hosts: dict[str, dict[str, Any]],
    variables: dict[str, Any],
    *,
    check: bool = False,
) -> Outcome:
    """Run ``task_files`` of ``role`` on the first of ``hosts``, without its handlers."""
    if not PLAYBOOK.exists():
        pytest.skip("ansible-playbook is not installed beside this Python: make cluster")
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {"nodes": {"hosts": hosts, "vars": local}}
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.import_role": {"name": role, "tasks_from": name}} for name in task_files
    ]
    # handlers would reload the services of this machine
    tasks.append({"ansible.builtin.meta": "end_play"})
    play = {"hosts": next(iter(hosts)), "gather_facts": False, "vars": variables, "tasks": tasks}
    (directory / "hosts.json").write_text(json.dumps(inventory))
    (directory / "play.json").write_text(json.dumps([play]))
    done = subprocess.run(
        [PLAYBOOK, "-i", "hosts.json", "play.json", *(["--check"] if check else [])],
        cwd=directory,
        env={
            **os.environ,
            "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_HOME": str(directory / "ansible"),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    output = done.stdout + done.stderr
    assert done.stdout.startswith("{"), output
    (stats,) = json.loads(done.stdout)["stats"].values()
    return Outcome(stats["changed"], stats["failures"] + stats["unreachable"], output)
