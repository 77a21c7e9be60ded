"""The live view: what arrives, from whom, what is lost, and who talks most."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.cli.figures import Figures, Look
from appliance.cli.text import moment, protocol_text, short, shown

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

PERIOD = 1.0
TALKERS_PERIOD = 5.0
LINE_PERIOD = 10.0
"""Seconds between lines where there is no terminal."""
ROWS = 10
LATE = "The top talkers are late: the machine is too busy to ask for them."
MINUTE_NS = 60 * 10**9

Talkers = list[dict[str, Any]]


class TalkersThread:
    """Asks for the top talkers of the last minute now and then, so that the view never waits."""

    def __init__(self, ask: Callable[[], Talkers], period: float = TALKERS_PERIOD) -> None:
        self.rows: Talkers = []
        self.asked_in_vain = False
        """Whether the last question failed; the rows are then those of one before."""
        self._ask = ask
        self._period = period
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="talkers", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.rows, self.asked_in_vain = self._ask(), False
            except Exception:
                # too slow on a busy node, most likely; the rest of the view goes on
                self.asked_in_vain = True
            self._stop.wait(self._period if self.rows else min(self._period, PERIOD))

    def stop(self) -> None:
        """End, after the question that runs."""
        self._stop.set()
        self._thread.join()


def line(look: Look) -> str:
    """The figures as one line, for logs."""
    if look.problem:
        return look.problem
    parts = [
        f"{short(look.datagrams_rate)} datagrams/s",
        f"{short(look.records_rate)} flows/s",
        f"{len(look.senders)} exporters",
        f"lost on the way {look.lost}",
        f"dropped by the kernel {look.kernel_dropped}",
        f"not decoded {look.damaged}",
        f"waiting for templates {look.held}",
        f"{look.lag_seconds:.1f} s to the store",
    ]
    if not look.balanced:
        parts.append("THE LEDGER DOES NOT BALANCE")
    return ", ".join(parts)


def picture(look: Look, talkers: Talkers, head: list[str]) -> RenderableType:
    """The figures as a screen; ``head``: lines to begin with."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(text) for text in head]
    if look.problem:
        return Group(*parts, Text(look.problem, style="bold red"))
    parts += [Text(), _rates(look), _losses(look), Text()]
    if look.senders:
        parts += [_senders(look), Text()]
    else:
        parts += [Text("Nothing has arrived yet. Point an exporter at a port above.", "yellow")]
    if talkers:
        parts.append(_talkers(talkers))
    return Group(*parts)


def _rates(look: Look) -> RenderableType:
    from rich.text import Text

    return Text.assemble(
        (short(look.datagrams_rate), "bold"), " datagrams/s   ",
        (short(look.bits_rate), "bold"), " bit/s   ",
        (short(look.records_rate), "bold"), " flows/s   ",
        (f"{look.lag_seconds:.1f} s", "bold"), " to the store",
    )  # fmt: skip


def _losses(look: Look) -> RenderableType:
    from rich.text import Text

    found = [
        (look.lost, "lost on the way"),
        (look.kernel_dropped, "dropped by the kernel"),
        (look.damaged, "not decoded"),
        (look.held, "waiting for a template"),
    ]
    text = Text()
    for number, what in found:
        style = "bold red" if number and what != "waiting for a template" else "bold green"
        text.append(f"{number:,}", style).append(f" {what}   ")
    if not look.balanced:
        text.append("the ledger does not balance: see `tandem ledger`", "bold red")
    return text


def _senders(look: Look) -> RenderableType:
    table = _new_table("exporter", "protocol", "datagrams/s", "flows/s", "flows", "lost",
                       "not decoded")  # fmt: skip
    ordered = sorted(look.senders, key=lambda s: (-s.records_rate, -s.records, s.address))
    for sender in ordered[:ROWS]:
        table.add_row(
            sender.address,
            ", ".join(map(protocol_text, sorted(sender.protocols))),
            short(sender.datagrams_rate),
            short(sender.records_rate),
            short(sender.records),
            f"{sender.lost:,}",
            f"{sender.damaged:,}",
        )
    if len(ordered) > ROWS:
        table.add_row(f"and {len(ordered) - ROWS} more")
    return table


def _talkers(talkers: Talkers) -> RenderableType:
    table = _new_table("last minute: source", "destination", "bit/s", "packets/s", "share")
    for row in talkers:
        names = ("src_addr", "dst_addr", "bps", "pps", "share")
        # never silently as if it were the true traffic
        note = "sampling unknown, as sent" if row["unknown"] else ""
        table.add_row(*(shown(name, row[name], row) for name in names), note)
    return table


def _new_table(*titles: str, left: int = 2) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for i, title in enumerate(titles):
        table.add_column(title, justify="left" if i < left else "right", no_wrap=True)
    table.add_column("")
    return table


def watch(
    data_dir: Path,
    figures: Figures,
    head: list[str],
    going: Callable[[], bool],
    messages: Callable[[], list[str]] = list,
) -> None:
    """Show the figures until ``going`` says no; ``messages``: lines to print meanwhile."""
    if not sys.stdout.isatty():
        _lines(figures, head, going, messages)
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    with asking_talkers(data_dir) as talkers, Live(console=console, auto_refresh=False) as live:
        while True:
            for message in messages():
                live.console.print(Text(message))
            late = [LATE] if talkers.asked_in_vain else []
            live.update(picture(figures.look(), talkers.rows, head + late), refresh=True)
            if not going():
                return
            time.sleep(PERIOD)


def _lines(
    figures: Figures,
    head: list[str],
    going: Callable[[], bool],
    messages: Callable[[], list[str]],
) -> None:
    for text in head:
        print(text, flush=True)  # noqa: T201
    based = False
    due = time.monotonic() + LINE_PERIOD
    while going():
        for message in messages():
            print(message, flush=True)  # noqa: T201
        # the first rates are since the collector began to say anything
        based = based or not figures.look().problem
        if time.monotonic() >= due:
            due += LINE_PERIOD
            look = figures.look()
            print(f"{moment(look.now_ns)} {line(look)}", flush=True)  # noqa: T201
        time.sleep(0.2)


class asking_talkers:  # noqa: N801 - reads as a statement
    """The thread that asks for the talkers, and its engine."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def __enter__(self) -> TalkersThread:
        from appliance.query.engine import Engine, Window
        from appliance.query.traffic import top

        # one thread: the processors belong to the collector
        self._engine = Engine(self._data_dir, threads=1, memory_bytes=512 << 20, seconds=10)

        def ask() -> Talkers:
            now = time.time_ns()
            window = Window(now - MINUTE_NS, now)
            found = top(self._engine, ["src,dst"], window=window, limit=ROWS)
            return list(found.table.to_pylist())

        self._thread = TalkersThread(ask)
        return self._thread

    def __exit__(self, *_: object) -> None:
        self._thread.stop()
        self._engine.close()
