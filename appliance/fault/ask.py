"""Asking the process that makes faults."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from appliance.fault.verbs import FaultFailed

_SECONDS = 15.0
"""A command of the other side may take ten."""


def ask(path: Path, request: dict[str, Any], timeout: float = _SECONDS) -> dict[str, Any]:
    """The answer to ``request`` at the socket ``path``; raises :class:`FaultFailed`."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(str(path))
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as file:
                answer = json.loads(file.readline(1 << 16))
    except FileNotFoundError:
        raise FaultFailed("tandem-fault does not run: systemctl start tandem-fault") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise FaultFailed(f"{path}: {reason}") from None
    if not isinstance(answer, dict):
        raise FaultFailed(f"{path}: what answers is not tandem-fault")
    if "error" in answer:
        raise FaultFailed(str(answer["error"]))
    return answer
