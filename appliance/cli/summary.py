"""What is said below a result: of how much it is, and why it may be empty."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from appliance.cli.render import remark
from appliance.cli.text import ago, moment, short

if TYPE_CHECKING:
    from appliance.query.engine import Engine, Window
    from appliance.query.select import Result


def total_remark(engine: Engine, result: Result, window: Window) -> None:
    """The totals of the rows that were selected, and from when to when they arrived."""
    if not result.total.get("flows"):
        nothing_remark(engine, window)
        return
    parts = [f"{short(result.total['flows'])} flows"]
    for name, unit in (("bytes", "bytes"), ("packets", "packets")):
        if name in result.total:
            parts.append(f"{short(result.total[name])} {unit}")
    when = ""
    if result.since_ns is not None and result.until_ns is not None:
        when = f", {moment(result.since_ns)} to {moment(result.until_ns)} UTC"
    remark(", ".join(parts) + when)


def nothing_remark(engine: Engine, window: Window) -> None:
    """Why there is nothing: no flows at all, none in the window, or none that fit the filter."""
    newest = newest_ns(engine)
    if newest is None:
        remark("no flows: the store is empty. `tandem watch` shows what arrives.")
    elif window.since_ns is not None and newest < window.since_ns:
        when = ago(newest, time.time_ns())
        remark(f"no flows in this time; the newest one arrived {when} ago. Try a longer --last.")
    else:
        remark("no flows that fit.")


def newest_ns(engine: Engine) -> int | None:
    """When the newest stored flow arrived; from the files' metadata alone."""
    from appliance.store.files import snapshot

    return max((f.max_ns for f in snapshot(engine.store / "flows")), default=None)
