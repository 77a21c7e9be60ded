"""Searching single flow records: newest first, a page at a time."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from appliance.query.engine import EVER, Engine, QueryError, Window, quoted
from appliance.query.select import select

DEFAULT_COLUMNS = (
    "received_ns", "exporter", "src_addr", "dst_addr", "protocol", "src_port", "dst_port",
    "tcp_flags", "packets", "bytes", "sampling_rate", "sampling_source", "in_if", "out_if",
)  # fmt: skip
"""What is shown when nobody says which columns."""

_TIES = (
    "exporter", "export_protocol", "src_addr", "dst_addr", "src_port", "dst_port", "protocol",
    "bytes", "packets", "start_ns", "end_ns", "in_if", "out_if", "sequence",
)  # fmt: skip
"""Order of the records that arrived in one datagram, so that pages neither overlap nor miss any.
Records that agree in all of these may be exchanged for each other."""

MAX_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class Page:
    """Flow records, newest first, and the token of the next page; None: this was the last."""

    table: pa.Table
    next: str | None


def flows(
    engine: Engine,
    *,
    filter: str = "",  # noqa: A002 - the word that users and the API know
    window: Window = EVER,
    columns: Sequence[str] | None = DEFAULT_COLUMNS,
    limit: int = 100,
    token: str | None = None,
) -> Page:
    """The newest ``limit`` flow records that the filter holds for, discard samples included.

    ``columns``: None for all columns that any of these records has. ``token``: of the page before;
    filter and window must be the same. New records do not move the pages that follow a token.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise QueryError(f"a limit is from 1 to {MAX_LIMIT}, not {limit}")
    skip = 0
    if token is not None:
        last, skip = _read_token(token)
        until = min(last + 1, window.until_ns if window.until_ns is not None else last + 1)
        window = Window(window.since_ns, until)
    selection = select(engine, filter, window, discards=True)
    # first the few columns that decide which records, then all of those
    oldest = selection.fetch(
        f"""SELECT min(received_ns) AS low FROM (SELECT received_ns FROM flows
            WHERE {selection.where} ORDER BY received_ns DESC LIMIT {limit + skip + 1})"""
    )["low"][0].as_py()
    if oldest is None:
        return Page(_empty(engine, window, columns), None)
    selection.need(_TIES)
    shown = list(columns) if columns is not None else list(engine.columns(window))
    selection.need(shown)
    names = ", ".join(quoted(name) for name in shown)
    order = ", ".join(f"{name}" for name in _TIES)
    table = selection.fetch(
        f"""SELECT {names}, received_ns AS "page.ns" FROM flows
            WHERE {selection.where} AND received_ns >= {oldest}
            ORDER BY received_ns DESC, {order} LIMIT {limit + 1} OFFSET {skip}"""
    )
    following = _next_token(table["page.ns"].to_pylist(), limit, window.until_ns, skip)
    table = table.slice(0, limit).drop_columns(["page.ns"])
    if columns is None:
        filled = [name for name in shown if table[name].null_count < table.num_rows]
        table = table.select(filled)
    return Page(table, following)


def _empty(engine: Engine, window: Window, columns: Sequence[str] | None) -> pa.Table:
    selection = select(engine, "", window, discards=True)
    selection.need(columns or DEFAULT_COLUMNS)
    names = ", ".join(quoted(name) for name in columns or DEFAULT_COLUMNS)
    return selection.fetch(f"SELECT {names} FROM flows WHERE false")


def _next_token(times: list[int], limit: int, until: int | None, skip: int) -> str | None:
    """The last record's time, and how many records of that time have been given out."""
    if len(times) <= limit:
        return None
    last = times[limit - 1]
    given = times[:limit].count(last)
    if until == last + 1 and given == limit:  # the page before ended within the same instant
        given += skip
    text = json.dumps([last, given], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, int]:
    try:
        padded = token + "=" * (-len(token) % 4)
        last, given = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
        if not (isinstance(last, int) and isinstance(given, int) and 0 <= given <= 10**9):
            raise ValueError
    except (ValueError, TypeError) as error:
        raise QueryError(f"{token!r} is no token of a page; begin without one") from error
    return last, given
