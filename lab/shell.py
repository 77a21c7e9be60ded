"""Calling other programs, and the one error of this package."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence


class LabError(Exception):
    """The lab cannot do what it was asked; the message says why and what helps."""


def run(*command: str, stdin: str | None = None, check: bool = True) -> str:
    """Run ``command`` to its end; its stdout. LabError with its stderr when it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"{' '.join(command)}: {said or f'exit status {done.returncode}'}")
    return done.stdout


def need(programs: Sequence[str], packages: str) -> None:
    """LabError unless all ``programs`` are there; ``packages``: what brings them."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise LabError(f"{', '.join(missing)}: not found; apt-get install {packages}")
