"""Results on stdout: tables for people, JSON lines and CSV for programs; remarks on stderr."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from appliance.cli import text
from appliance.cli.table import layout

if TYPE_CHECKING:
    import pyarrow as pa

    from appliance.query.select import Result

_CHUNK = 10_000


def write(
    table: pa.Table, shape: str | None, *, hide: Sequence[str] = (), verbatim: bool = False
) -> None:
    """``table`` on stdout; ``hide``: columns that people need not see.

    ``verbatim``: the titles are the columns' names, and all numbers are aligned at the right, as
    suits names that the user chose.
    """
    if shape == "json":
        for row in rows(table):
            click.echo(json.dumps(row, default=_jsonable, ensure_ascii=False))
    elif shape == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(table.column_names)
        for row in rows(table):
            writer.writerow("" if v is None else _cell(v) for v in row.values())
    else:
        names = [name for name in table.column_names if name not in hide]
        grid(
            names,
            ([text.shown(name, row[name], row) for name in names] for row in rows(table)),
            right={n for n in names if n in text.RIGHT or (verbatim and _number(table[n].type))},
            titles=names if verbatim else None,
        )


def _number(type_: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def rows(table: pa.Table) -> Any:
    """The rows as dicts, some at a time; maps as dicts."""
    import pyarrow as pa

    maps = [f.name for f in table.schema if isinstance(f.type, pa.MapType)]
    for batch in table.to_batches(_CHUNK):
        for row in batch.to_pylist():
            for name in maps:
                if row[name] is not None:
                    row[name] = dict(row[name])
            yield row


def grid(
    names: Sequence[str],
    cells: Iterable[Sequence[str]],
    right: set[str] | None = None,
    titles: Sequence[str] | None = None,
) -> None:
    """A table of columns ``names``; without ``titles``, with those that people know them by.

    It is as wide as the terminal allows. In a file or a pipe, each row is one line, whole.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    head, body = layout(
        titles or [text.heading(name) for name in names],
        [[_safe(cell) for cell in row] for row in cells],
        [name in right if right else False for name in names],
        width,
    )
    for line in head:
        click.secho(line, bold=True)
    for line in body:
        click.echo(line)


def _safe(cell: str) -> str:
    """Text from exporters: on one line, and without control characters for the terminal."""
    if cell.isprintable():
        return cell
    return "".join(
        c if c.isprintable() else " " if c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in cell
    )


def _jsonable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, default=_jsonable, ensure_ascii=False)
    return _jsonable(value) if isinstance(value, bytes | datetime | date | timedelta) else value


def remark(message: str) -> None:
    """A line for people, out of the way of the data."""
    click.echo(message, err=True)


def sampling_remark(result: Result, as_sent: bool) -> None:
    """How much of a result is not scaled, if anything; never nothing said about unknown rates."""
    flows = int(result.total.get("flows", 0))
    unknown = int(result.total.get("unknown", 0))
    if as_sent or not unknown:
        return
    which = (
        "all"
        if unknown == flows
        else f"{unknown} of {flows} ({text.percent(result.unknown_share)})"
    )
    remark(
        f"! {which} flows have an unknown sampling rate and are counted as sent: the true traffic "
        "may be a multiple.\n  `tandem exporters` shows whose; a rate can be given in the "
        "configuration, [[exporter]] sampling_rate."
    )
