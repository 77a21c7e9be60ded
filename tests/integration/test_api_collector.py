"""The API beside a real collector: what it says is what was sent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from appliance.config import load
from tests.builders import template_set, v9
from tests.integration.harness import RECORDS, Collector, Traffic, wait_for
from tests.unit.test_api_metrics import parse

EXPORTERS = 4
COUNT = 50
ROWS = EXPORTERS * COUNT * RECORDS


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    collector = Collector(tmp_path_factory.mktemp("node"))
    collector.start()
    traffic = Traffic(collector.port, COUNT, 5000, EXPORTERS)
    traffic.start()
    traffic.join()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.9.0.1", 0))
        packet = v9([template_set(256, [(0, 8, 4)], False)])
        sock.sendto(packet, ("127.0.0.1", collector.port))
    wait_for(lambda: collector.stored() == ROWS, 30, "everything stored")
    yield collector
    collector.end()


@pytest.fixture
def client(collector: Collector) -> Iterator[TestClient]:
    with TestClient(create_app(load(collector.config))) as client:
        yield client


def get(client: TestClient, path: str, **parameters: Any) -> Any:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def received(client: TestClient) -> int:
    return sum(row["datagrams_received"] for row in get(client, "/v1/ledger")["rows"])


def test_the_ledger_accounts_for_every_datagram_that_was_sent(client: TestClient) -> None:
    wait_for(lambda: received(client) == EXPORTERS * COUNT + 1, 10, "all in the ledger")
    ledger = get(client, "/v1/ledger")
    assert ledger["balanced"] is True
    assert sum(row["records_stored"] for row in ledger["rows"]) == ROWS
    assert sum(row["sequence_lost"] for row in ledger["rows"]) == 0


def test_flows_and_exporters_are_those_of_the_store(client: TestClient) -> None:
    total = get(client, "/v1/flows/top", by="exporter", metric="flows")
    assert {row["exporter"]: row["flows"] for row in total["rows"]} == {
        f"127.9.{i}.1": COUNT * RECORDS for i in range(EXPORTERS)
    }
    assert sum(row["flows"] for row in get(client, "/v1/flows/series")["rows"]) == ROWS
    assert len(get(client, "/v1/flows/search", limit=10_000)["rows"]) == ROWS
    assert len(get(client, "/v1/exporters")["rows"]) == EXPORTERS


def test_templates_are_those_that_were_sent(client: TestClient) -> None:
    wait_for(lambda: get(client, "/v1/templates")["of"] == 1, 10, "the template")
    (template,) = get(client, "/v1/templates")["rows"]
    assert (template["exporter"], template["id"]) == ("127.9.0.1", 256)


def test_metrics_and_node_agree_with_the_traffic(client: TestClient, collector: Collector) -> None:
    def datagrams() -> float:
        client.app.state.observer.watcher.refresh()  # type: ignore[attr-defined]
        (listener,) = get(client, "/v1/node")["collector"]["listeners"]
        return float(listener["datagrams"])

    wait_for(lambda: datagrams() == EXPORTERS * COUNT + 1, 10, "the report of the workers")
    found = parse(client.get("/metrics").text)
    assert found["tandem_ready"][""] == 1
    assert sum(found["tandem_journal_datagrams_total"].values()) == EXPORTERS * COUNT + 1
    assert found["tandem_store_records"]['table="flows"'] == ROWS
    assert sum(found["tandem_exporter_stored_records_total"].values()) == ROWS


def test_readiness_follows_the_collector(client: TestClient, collector: Collector) -> None:
    client.app.state.observer.watcher.refresh()  # type: ignore[attr-defined]
    assert client.get("/readyz").status_code == 200
    assert collector.stop() == 0
    client.app.state.observer.watcher.refresh()  # type: ignore[attr-defined]
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "no collector runs here" in answer.json()["detail"]
    assert get(client, "/v1/flows/top", by="exporter")["total"]["flows"] == ROWS
