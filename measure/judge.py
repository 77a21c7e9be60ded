"""``python -m measure judge``: what became of each record of a load, at which node.

Reads the sender's log, and each node's store and ledger in its data directory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.drill.losses import find_holes, find_takeover
from appliance.drill.sendlog import SendLog
from appliance.drill.streams import I64
from appliance.state import StateReader
from measure.judgement import (
    SHOWN_HOLES,
    Judgement,
    Limits,
    LoadResult,
    NodeResult,
    Series,
    combined,
)
from measure.ledgers import check_stream
from measure.stored import LedgerRows, Records, read_ledger, read_records, settled

STEP_MS = 100
"""Of the series for plots."""


def judge(
    logs: Sequence[Path],
    nodes: Mapping[str, Path],
    *,
    event_ns: int | None = None,
    limits: Limits | None = None,
    settle_seconds: float = 2.5,
    timeout: float = 60,
) -> Judgement:
    """Judge the loads of ``logs``, of which ``nodes`` (data directories by name) have the records.

    Waits until no node's ledger has changed for ``settle_seconds``, which have to be more than the
    nodes' ``flush_seconds``. ``event_ns``: when something was done to the nodes (time.time_ns).
    """
    loads = [SendLog.open(path) for path in logs]
    quiet = settled(nodes, loads, settle_seconds, timeout)
    readers = {name: StateReader(path) for name, path in nodes.items()}
    troubles = {name: list[str]() for name in nodes}
    results = []
    for log in loads:
        records = {name: read_records(path, log) for name, path in nodes.items()}
        ledgers = {name: read_ledger(reader, log.load) for name, reader in readers.items()}
        for name, ledger in ledgers.items():
            troubles[name] = [f"the ledger does not balance: {t}" for t in ledger.imbalances]
        results.append(_judge_load(log, records, ledgers, event_ns))
    judgement = combined(results, event_ns, limits or Limits(), troubles)
    if not quiet:
        judgement.problems.append(f"the nodes' ledgers went on changing for {timeout:g} s")
    return judgement


def _judge_load(
    log: SendLog,
    records: Mapping[str, Records],
    ledgers: Mapping[str, LedgerRows],
    event_ns: int | None,
) -> LoadResult:
    load = log.load
    sent, each = log.sent, load.records
    streams = len(load.protocols)
    times = {name: _times_stored(r, sent, each) for name, r in records.items()}
    anywhere = np.zeros((sent, each), np.bool_)
    in_range = np.zeros(sent, np.bool_)
    nodes: dict[str, NodeResult] = {}
    problems: list[str] = []
    for name, stored in times.items():
        anywhere |= stored > 0
        whole = stored.min(axis=1)
        if partly := int((stored.max(axis=1) != whole).sum()):
            problems.append(f"{name}: {partly} datagrams are stored in part")
        checked = []
        for i, protocol in enumerate(load.protocols):
            mine = slice(i, None, streams)
            row = ledgers[name].streams.get(protocol)
            found = check_stream(load, protocol, row, whole[mine], int(stored[mine].sum()))
            if found is None:
                continue
            checked.append(found)
            problems += [f"{name} {protocol}: {text}" for text in found.problems]
            in_range[mine][max(found.first, 0) : found.last + 1] = True
        had = np.flatnonzero(whole)
        twice = int((whole > 1).sum())
        if twice:
            problems.append(f"{name}: {twice} datagrams are stored twice")
        nodes[name] = NodeResult(
            stored=len(had),
            stored_twice=twice,
            first_ns=int(log.sent_wall_ns[had[0]]) if len(had) else None,
            last_ns=int(log.sent_wall_ns[had[-1]]) if len(had) else None,
            ledger=checked,
        )
    lost: NDArray[np.bool_] = np.logical_not(anywhere.all(axis=1))
    on_two = np.sum([t.min(axis=1) > 0 for t in times.values()], axis=0) > 1
    never_sent = int(sum((r.datagram >= sent).sum() for r in records.values()))
    if never_sent:
        problems.append(f"{never_sent} records are stored that were never sent")
    holes = find_holes(log, lost, event_ns)
    longest = sorted(sorted(holes, key=lambda h: -h.gap_ms)[:SHOWN_HOLES], key=lambda h: h.first)
    missing = int(lost.sum())
    held = sum(f.named_losses.get("held", 0) for n in nodes.values() for f in n.ledger)
    if held > missing:
        problems.append(f"{held} datagrams wait for templates, but only {missing} are not stored")
    received = {name: _first_received(r, sent) for name, r in records.items()}
    return LoadResult(
        run=load.run,
        source=load.source,
        target=f"{load.target} port {load.port}",
        sent=sent,
        stored=sent - missing,
        lost=max(missing - held, 0),
        held=held,
        lost_records=int((~anywhere).sum()),
        lost_unclaimed=int((lost & ~in_range).sum()),
        on_two_nodes=int(on_two.sum()),
        never_sent=never_sent,
        holes=longest,
        takeover=None if event_ns is None else find_takeover(log, received, event_ns),
        nodes=nodes,
        problems=problems,
        series=_series(log, {name: t.min(axis=1) > 0 for name, t in times.items()}),
    )


def _times_stored(records: Records, sent: int, each: int) -> I64:
    """How often each record is stored: ``(datagrams, records of a datagram)``."""
    known = records.datagram < sent
    flat = records.datagram[known] * each + records.record[known]
    return np.bincount(flat, minlength=sent * each).reshape(sent, each).astype(np.int64)


def _first_received(records: Records, sent: int) -> tuple[I64, I64]:
    """The numbers of the datagrams that are stored, and when each of them first came."""
    order = np.lexsort((records.received_ns, records.datagram))
    had, at = np.unique(records.datagram[order], return_index=True)
    known = had < sent
    return had[known], records.received_ns[order][at][known]


def _series(log: SendLog, stored: Mapping[str, NDArray[np.bool_]]) -> Series:
    if not log.sent:
        return Series(0, STEP_MS, [], {name: [] for name in stored})
    step = (log.sent_monotonic_ns - log.monotonic_ns[0]) // (STEP_MS * 1_000_000)
    steps = int(step[-1]) + 1
    return Series(
        begin_ns=int(log.wall_ns[0]),
        step_ms=STEP_MS,
        sent=np.bincount(step, minlength=steps).tolist(),
        stored={n: np.bincount(step[had], minlength=steps).tolist() for n, had in stored.items()},
    )


def _node(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not name or not Path(path, "store").is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIRECTORY with a node's data")
    return name, Path(path)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m measure judge", description=__doc__)
    parser.add_argument(
        "--log", type=Path, action="append", required=True, help="of the sender; may be repeated"
    )
    parser.add_argument(
        "--node", type=_node, action="append", required=True, metavar="NAME=DIRECTORY"
    )
    parser.add_argument("--event-ns", type=int, help="when it happened (ns since 1970)")
    parser.add_argument(
        "--settle", type=float, default=2.5, metavar="SECONDS", help="quiet before judging"
    )
    parser.add_argument("--timeout", type=float, default=60, help="seconds to wait for it")
    parser.add_argument("--max-lost", type=int, metavar="DATAGRAMS")
    parser.add_argument("--max-gap-ms", type=float)
    parser.add_argument("--max-takeover-ms", type=float, help="from event to arrival elsewhere")
    parser.add_argument("--json", type=Path, help="write the result there")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Judge, print, and say by the exit status whether all is well."""
    chosen = _arguments(argv)
    judgement = judge(
        chosen.log,
        dict(chosen.node),
        event_ns=chosen.event_ns,
        limits=Limits(chosen.max_lost, chosen.max_gap_ms, chosen.max_takeover_ms),
        settle_seconds=chosen.settle,
        timeout=chosen.timeout,
    )
    if chosen.json:
        chosen.json.write_text(json.dumps(judgement.document(), indent=1) + "\n")
    sys.stdout.write(judgement.text())
    return 0 if judgement.passed else 1
