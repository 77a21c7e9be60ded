"""Following an operation of the API to its end, with what happens shown as it does."""

from __future__ import annotations

import sys
import time
import uuid
from typing import Any

import click

from appliance.cli.client import Client, NotReachable

_PERIOD = 0.2
_PATIENCE = 20.0
"""Seconds beyond an operation's deadline in which its end must become known."""
UNKNOWN = 3
"""Exit status where it does not."""


def new_key() -> dict[str, str]:
    """Headers by which a request that is sent again begins nothing again."""
    return {"Idempotency-Key": str(uuid.uuid4())}


def follow(client: Client, operation: dict[str, Any], quiet: bool) -> dict[str, Any]:
    """The operation as it is in the end, or as it was last known; events go to standard output.

    The API may be away for a moment: the VIP through which it is asked may itself be moving.
    """
    id_, shown = operation["id"], 0
    until = time.monotonic() + operation["deadline_seconds"] + _PATIENCE
    while True:
        if not quiet:
            for event in operation["events"][shown:]:
                seconds = (event["time_ns"] - operation["created_ns"]) / 1e9
                click.echo(f"{seconds:7.3f} s  {event['text']}")
        shown = len(operation["events"])
        if operation["ended_ns"] is not None or time.monotonic() > until:
            return operation
        time.sleep(_PERIOD)
        try:
            operation = client.get(f"/v1/operations/{id_}")
        except NotReachable as error:
            if time.monotonic() > until:
                raise
            if sys.stderr.isatty():
                click.echo(f"        {error.format_message()}", err=True)


def status_of(operation: dict[str, Any]) -> int:
    """The exit status for how an operation ended."""
    return {"succeeded": 0, "failed": 1}.get(operation["state"], UNKNOWN)
