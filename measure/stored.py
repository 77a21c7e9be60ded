"""What the nodes have of a load: the records in their stores, and their ledgers' rows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from appliance.drill.sendlog import Load, SendLog
from appliance.drill.streams import I64, NUMBER_SQL, PROTOCOLS
from appliance.query.engine import Engine, Window
from appliance.state import StateReader

POLL_SECONDS = 0.25
SLACK_NS = 60_000_000_000
"""By how much a node's clock may be behind the sender's for its records to be found."""


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a load that one node has, an entry each."""

    datagram: I64
    """Of the whole load."""
    record: I64
    """Within its datagram."""
    received_ns: I64


def read_records(data_dir: Path, log: SendLog) -> Records:
    """All records of the load in the store of ``data_dir``."""
    load = log.load
    names = {int(PROTOCOLS[p].number): i for i, p in enumerate(load.protocols)}
    numbers = ", ".join(str(number) for number in names)
    since = int(log.wall_ns[0]) - SLACK_NS if len(log.wall_ns) else None
    with Engine(data_dir) as engine:
        table = engine.execute(
            f"SELECT export_protocol, {NUMBER_SQL} AS number, received_ns FROM flows "
            "WHERE exporter = addr($source) AND observation_domain = $run "
            f"AND export_protocol IN ({numbers})",
            {"source": load.source, "run": load.run},
            window=Window(since, None),
        )
    number = table["number"].to_numpy()
    stream = np.zeros(256, np.int64)
    for protocol, i in names.items():
        stream[protocol] = i
    streams = stream[table["export_protocol"].to_numpy()]
    datagram = number // load.records * len(load.protocols) + streams
    return Records(datagram, number % load.records, table["received_ns"].to_numpy())


Row = dict[str, Any]
"""A row of a ledger: counters by name."""


@dataclass(frozen=True, slots=True)
class LedgerRows:
    """What a node's ledger says."""

    streams: dict[str, Row]
    """By protocol; streams of which the node has heard nothing are not there."""
    imbalances: list[str]
    """Of the whole ledger."""


def read_ledger(reader: StateReader, load: Load) -> LedgerRows:
    """The rows of the load's streams, as of the last checkpoints."""
    view = reader.ledger()
    names = {PROTOCOLS[p].number.name: p for p in load.protocols}
    rows = {
        names[row["protocol"]]: row
        for row in view.table.to_pylist()
        if row["exporter"] == load.source and row["domain"] == load.run and row["protocol"] in names
    }
    return LedgerRows(rows, view.imbalances())


def settled(
    nodes: Mapping[str, Path], logs: list[SendLog], quiet_seconds: float, timeout: float
) -> bool:
    """Wait until no ledger's rows have changed for so long; False if that does not come."""
    readers = [StateReader(path) for path in nodes.values()]
    deadline = time.monotonic() + timeout
    before: list[LedgerRows] = []
    since = time.monotonic()
    while True:
        now = [read_ledger(reader, log.load) for reader in readers for log in logs]
        if now != before:
            before, since = now, time.monotonic()
        elif time.monotonic() - since >= quiet_seconds:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
