"""``tandem ledger``."""

from __future__ import annotations

import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.cli.options import (
    data_directory,
    data_option,
    exporter_option,
    format_options,
    state_of,
)

if TYPE_CHECKING:
    from appliance.state import LedgerView


@click.command()
@exporter_option
@click.option("--all", "everything", is_flag=True, help="Columns that are all zero, too.")
@format_options
@data_option
def ledger(
    exporter: str | None,
    everything: bool,
    shape: str | None,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """What became of every datagram and every flow record, as of the last checkpoints.

    Datagrams received = decoded + held + each named loss; flow records decoded = stored + dropped,
    for every exporter, protocol and observation domain. The exit status is 1 if that is not so.

    \b
    Examples:
      tandem ledger
      tandem ledger --exporter 192.0.2.1 --all
      tandem ledger --json
    """
    import pyarrow as pa

    from appliance.cli.render import remark, write

    with state_of(data_directory(data_dir, config_file), config_file) as state:
        view = state.ledger()
    table = view.table
    if exporter is not None:
        import pyarrow.compute as pc

        table = table.filter(pc.equal(table["exporter"], exporter))
    # by number, not by text
    order = sorted(range(table.num_rows), key=[_key(row) for row in table.to_pylist()].__getitem__)
    table = table.take(pa.array(order, pa.int64()))
    if shape is not None:
        write(table, shape)
    elif not table.num_rows:
        remark(f"nothing was received {f'from {exporter} ' if exporter else ''}yet")
    else:
        _table(table.to_pylist(), everything)
    imbalances = view.imbalances()
    if shape is None and table.num_rows:
        _remarks(view, imbalances)
    for imbalance in imbalances:
        remark(f"! {imbalance}")
    if imbalances:
        sys.exit(1)


def _key(row: dict[str, Any]) -> tuple[int, int, str, int]:
    """What rows are ordered by: addresses as numbers, IPv4 first."""
    address = ip_address(row["exporter"])
    return address.version, int(address), row["protocol"], row["domain"]


_TITLES = {
    "datagrams_received": "received",
    "bytes_received": "bytes",
    "records_decoded": "flow records",
    "records_stored": "stored",
    "records_dropped": "dropped",
    "sequence_lost": "lost on the way",
    "sequence_duplicates": "duplicates",
    "sequence_reordered": "reordered",
    "sequence_restarts": "restarts",
}


def _table(rows: list[dict[str, Any]], everything: bool) -> None:
    from appliance.cli.render import grid
    from appliance.cli.text import protocol_text
    from appliance.ledger.counters import COUNTERS
    from appliance.ledger.ledger import KEYS

    always = {"datagrams_received", "datagrams_decoded", "records_decoded", "records_stored",
              "sequence_lost"}  # fmt: skip
    hidden = {"sequence_received"}
    names = [
        c.name
        for c in COUNTERS
        if everything
        or (c.name not in hidden and (c.name in always or any(row[c.name] for row in rows)))
    ]
    titles = [
        _TITLES.get(name, name.removeprefix("datagrams_").replace("_", " ")) for name in names
    ]
    grid(
        [*KEYS, *titles],
        (
            [
                row["exporter"],
                protocol_text(row["protocol"]),
                str(row["domain"]),
                *(f"{row[n]:,}" for n in names),
            ]
            for row in rows
        ),
        right=set(titles),
    )


def _remarks(view: LedgerView, imbalances: list[str]) -> None:
    from appliance.cli.render import remark
    from appliance.cli.text import moment

    for reason, gone in view.retired.items():
        if rows := sum(gone.values()):
            words = {"expired": "expired by retention", "disk_full": "dropped for disk space",
                     "corrupt": "in damaged files"}  # fmt: skip
            remark(f"{rows:,} stored flow records {words[reason.value]} since")
    if view.torn:
        remark(f"{view.torn:,} datagrams were lost with a crash of the machine; whose is not known")
    if view.uncounted:
        remark(f"{view.uncounted:,} stored datagrams are not in here: a checkpoint was damaged")
    if not imbalances and view.updated_ns:
        remark(f"balanced, as of {moment(view.updated_ns)} UTC")
