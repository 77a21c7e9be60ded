"""Running playbooks on the lab's nodes.

Through Mitogen: one Python process a node instead of one a task halves the time of a playbook. The
same inventory works without it, too.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

PROJECT = Path(__file__).parents[1]
INVENTORY = "inventory/lab"


def environment() -> dict[str, str]:
    """Our own, with what makes playbooks use Mitogen where it is installed."""
    found = find_spec("ansible_mitogen")
    if found is None or found.origin is None:
        return dict(os.environ)
    plugins = Path(found.origin).parent / "plugins" / "strategy"
    return os.environ | {
        "ANSIBLE_STRATEGY": "mitogen_linear",
        "ANSIBLE_STRATEGY_PLUGINS": str(plugins),
        # Ansible says at each start that it may not load others' strategies for ever
        "ANSIBLE_DEPRECATION_WARNINGS": "false",
        "PATH": f"{PROJECT / 'lab' / 'bin'}:{os.environ['PATH']}",
    }


def command(inventory: str, playbook: str, *words: str) -> list[str]:
    """The command line, to be run in :data:`PROJECT`."""
    program = Path(sys.executable).with_name("ansible-playbook")
    return [str(program), "-i", inventory, f"playbooks/{playbook}", *words]


def play(inventory: str, playbook: str, *words: str, **variables: str) -> int:
    """Run a playbook, of which only changes are shown; its exit status."""
    quiet = environment() | {"ANSIBLE_DISPLAY_OK_HOSTS": "false"} | variables
    shown = command(inventory, playbook, *words)
    return subprocess.run(shown, cwd=PROJECT, env=quiet, check=False).returncode


if __name__ == "__main__":
    # for scripts: eval "$(python -m lab.ansible)"
    for name, value in environment().items():
        if os.environ.get(name) != value:
            sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
