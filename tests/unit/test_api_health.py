from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from appliance.config import Config


def node_document(**changes: Any) -> dict[str, Any]:
    now = time.time_ns()
    return {
        "node": "a",
        "version": "0.1.0",
        "pid": 1,
        "started_ns": now,
        "updated_ns": now,
        "workers": [{"pid": 2, "shards": [0, 1]}],
        "listeners": [{"address": "::", "port": 2055, "transport": "udp", "datagrams": 5}],
        "shards": [{"shard": 0}, {"shard": 1}],
        "config_sha256": "00",
    } | changes


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "node.json").write_text(json.dumps(node_document()))
    return tmp_path


@pytest.fixture
def client(data_dir: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Config(data_dir=data_dir)), raise_server_exceptions=False) as client:
        yield client


def rewrite(client: TestClient, data_dir: Path, text: str) -> None:
    (data_dir / "node.json").write_text(text)
    client.app.state.watcher.refresh()  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_health_checks_answer_get_head_and_options(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    options = client.options(path)
    assert options.status_code == 204
    assert options.headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"updated_ns": 10**18}, "said nothing for "),
        ({"workers": []}, "no worker"),
        ({"listeners": []}, "nothing listens"),
        ({"workers": [{"pid": 2, "shards": [1]}]}, "no worker serves shards 0"),
        ({"node": 5}, "node:"),
    ],
)
def test_a_node_that_does_not_collect_is_not_ready_and_says_why(
    client: TestClient, data_dir: Path, changes: dict[str, Any], reason: str
) -> None:
    rewrite(client, data_dir, json.dumps(node_document(**changes)))
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert reason in answer.json()["detail"]
    assert client.head("/readyz").status_code == 503
    assert client.get("/livez").status_code == 200


def test_a_node_that_comes_back_is_ready_again(client: TestClient, data_dir: Path) -> None:
    rewrite(client, data_dir, "{")
    assert client.get("/readyz").status_code == 503
    rewrite(client, data_dir, json.dumps(node_document()))
    assert client.get("/readyz").json() == {"status": "ready", "node": "a", "warnings": []}


def test_an_unbalanced_ledger_is_a_warning_but_the_node_stays_ready(
    client: TestClient, data_dir: Path
) -> None:
    shards = [{"shard": 1, "balanced": False, "imbalances": ["10.0.0.1: 1 datagram too few"]}]
    rewrite(client, data_dir, json.dumps(node_document(shards=shards)))
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert "10.0.0.1: 1 datagram too few" in answer.json()["warnings"][0]


def test_without_a_collector_the_api_says_that_none_has_run(tmp_path: Path) -> None:
    with TestClient(create_app(Config(data_dir=tmp_path))) as client:
        assert client.get("/livez").status_code == 200
        for path in ("/readyz", "/v1/node"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert "no collector runs here" in answer.json()["detail"]


def test_the_node_is_shown_as_it_wrote_itself(client: TestClient) -> None:
    shown = client.get("/v1/node").json()
    assert shown["node"] == "a"
    assert shown["workers"] == [{"pid": 2, "shards": [0, 1], "load": 0.0}]
    assert shown["listeners"][0]["datagrams"] == 5


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("POST", "/v1/node", 405)]
)
def test_errors_of_http_are_problem_documents(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["instance"] == path
    assert path in document["detail"]


def test_an_unexpected_error_is_a_problem_document_without_internals(
    client: TestClient,
) -> None:
    client.app.state.watcher.snapshot = None  # type: ignore[attr-defined]
    answer = client.get("/v1/node")
    assert answer.status_code == 500
    assert answer.json()["title"] == "Internal Server Error"
    assert "snapshot" not in answer.text
