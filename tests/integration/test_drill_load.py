"""A drill's load on real collectors: each node says exactly what it has of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from appliance.drill.accounts import account, changes, read_account
from appliance.drill.evidence import Evidence, gather
from appliance.drill.sendlog import SendLog
from appliance.query.engine import Engine
from appliance.query.traffic import top
from appliance.schema import DRILL_DOMAINS
from appliance.state import StateReader
from tests.integration.harness import Collector, wait_for
from tests.unit.measure_tools import collectors, send_through

RECORDS = 2


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Collector]]:
    with collectors(tmp_path_factory.mktemp("nodes"), 2) as made:
        yield made


def test_each_node_says_what_it_has_and_when_it_came(two: list[Collector], tmp_path: Path) -> None:
    ports = [node.port for node in two]
    domain = DRILL_DOMAINS[5]

    def route(i: int) -> list[int]:
        if i < 500:
            return [ports[0]] * (2 if i in (100, 101) else 1)
        return [] if i < 600 else [ports[1]] if i > 620 else ports

    before = [read_account(account(StateReader(node.data).ledger())) for node in two]
    since = time.time_ns()
    log = send_through(route, tmp_path / "log", 1000, run=domain, protocols=("ipfix",))
    read = SendLog.read(json.loads(json.dumps(log.document())))
    assert (read.load, read.sent) == (log.load, log.sent)
    assert np.abs(read.sent_wall_ns - log.sent_wall_ns).max() < 2_000_000
    assert len(json.dumps(log.document())) < 3 * log.sent
    event = int(log.sent_wall_ns[600])

    def found(node: Collector) -> Evidence:
        with Engine(node.data) as engine:
            one = gather(engine, domain, RECORDS, since, event)
        return Evidence.read(json.loads(json.dumps(one.document())))

    wait_for(lambda: log.sent - 1 in found(two[1]).number, 10, "the last datagram")
    wait_for(lambda: 620 in found(two[0]).number, 10, "the last one there")
    one, two_ = found(two[0]), found(two[1])
    assert one.number.tolist() == [*range(500), *range(600, 621)]
    assert np.flatnonzero(one.times == 2).tolist() == [100, 101]
    assert two_.number.tolist() == list(range(600, log.sent))
    assert (two_.times == 1).all()
    assert (one.partly, two_.partly) == (0, 0)
    assert one.exporters == two_.exporters == ("127.0.0.1",)
    # sent to a socket of this machine: it is there within a moment, by the same clock
    late = two_.received_ns - log.sent_wall_ns[two_.number]
    assert 0 <= int(np.median(late)) < 50_000_000
    assert two_.durable_ns is not None
    assert event < two_.durable_ns < time.time_ns()
    for node, earlier, had in zip(two, before, (one, two_), strict=True):
        wait_for(
            lambda: changed(node, earlier)[0].received == int(had.times.sum()),  # noqa: B023
            5,
            "the ledger",
        )
        (change,) = changed(node, earlier)
        assert change.of_drill
        assert change.stored == int(had.times.sum()) * RECORDS
        assert change.named_losses == 0
        with Engine(node.data) as engine:
            assert top(engine, ["exporter"]).total["flows"] == 0, "no user sees it"


def changed(node: Collector, before: dict) -> list:
    after = read_account(json.loads(json.dumps(account(StateReader(node.data).ledger()))))
    return changes(before, after)
