from __future__ import annotations

import json
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from appliance.config import Config
from appliance.health.state_socket import StateSocket


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
    client.app.state.observer.watcher.refresh()  # type: ignore[attr-defined]


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
    answer = client.get("/readyz").json()
    assert (answer["status"], answer["warnings"]) == ("ready", [])


def test_an_unbalanced_ledger_is_a_warning_but_the_node_stays_ready(
    client: TestClient, data_dir: Path
) -> None:
    shards = [{"shard": 1, "balanced": False, "imbalances": ["10.0.0.1: 1 datagram too few"]}]
    rewrite(client, data_dir, json.dumps(node_document(shards=shards)))
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert "10.0.0.1: 1 datagram too few" in answer.json()["warnings"][0]


def test_settings_that_are_not_in_force_are_a_warning(client: TestClient, data_dir: Path) -> None:
    rewrite(client, data_dir, json.dumps(node_document(settings_problem="port 2055 is taken")))
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["warnings"] == ["a configuration is not in force: port 2055 is taken"]


def test_without_a_collector_the_api_says_that_none_has_run(tmp_path: Path) -> None:
    with TestClient(create_app(Config(data_dir=tmp_path))) as client:
        assert client.get("/livez").status_code == 200
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert "no collector runs here" in answer.json()["detail"]
        shown = client.get("/v1/node").json()
        assert shown["collector"] is None
        assert "no collector runs here" in shown["collector_problem"]


def test_the_node_is_shown_as_it_wrote_itself(client: TestClient) -> None:
    shown = client.get("/v1/node").json()["collector"]
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
    client.app.state.observer.watcher.snapshot = None  # type: ignore[attr-defined]
    answer = client.get("/v1/node")
    assert answer.status_code == 500
    assert answer.json()["title"] == "Internal Server Error"
    assert "snapshot" not in answer.text


def test_a_node_alone_is_a_cluster_of_one_without_vips(client: TestClient) -> None:
    assert client.get("/active").status_code == 503
    assert "this node is alone" in client.get("/active").json()["detail"]
    assert client.get("/standby").status_code == 200
    assert client.get("/active", params={"vip": "v1"}).status_code == 404
    view = client.get("/v1/cluster").json()
    assert (view["cluster"], len(view["nodes"]), view["vips"]) == (None, 1, [])
    assert view["problems"] == []
    assert client.get("/v1/failover").json()["history"] == []


def test_a_node_alone_can_be_drained_and_then_is_no_standby(client: TestClient) -> None:
    name = client.get("/v1/node").json()["name"]
    assert client.put(f"/v1/nodes/{name}/drain").json()["drained"] is True
    assert "it is drained" in client.get("/standby").json()["detail"]
    assert client.delete(f"/v1/nodes/{name}/drain").json()["drained"] is False


def test_where_anyone_may_read_without_a_token_nobody_may_change(data_dir: Path) -> None:
    api = {"address": ip_address("192.0.2.1"), "expose": True}
    config = Config.model_validate({"data_dir": data_dir, "api": api})
    with TestClient(create_app(config)) as client:
        assert client.get("/v1/node").status_code == 200
        assert client.put("/v1/nodes/x/drain").status_code == 403


def health(folder: Path, state: str, age: float = 0.0) -> None:
    updated = time.time_ns() - int(age * 1e9)
    document = {"state": state, "reason": "why", "since_ns": 1, "updated_ns": updated}
    (folder / "health.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("state", "age", "reason"),
    [("hung", 0, "the collector is hung: why"), ("ok", 9, "the health unit said nothing for")],
)
def test_a_node_is_not_ready_while_the_health_unit_says_so_or_nothing(
    data_dir: Path, state: str, age: float, reason: str
) -> None:
    tables = {"data_dir": data_dir, "health": {"directory": data_dir}}
    health(data_dir, state, age)
    collector = StateSocket(data_dir / "collector.sock")
    with TestClient(create_app(Config.model_validate(tables))) as client:
        detail = client.get("/readyz").json()["detail"]
        assert reason in detail
        (data_dir / "health.json").write_text('{"state": "o')
        client.app.state.observer.health.refresh()  # type: ignore[attr-defined]
        assert "not what the health unit writes" in client.get("/readyz").json()["detail"]
        (data_dir / "health.json").unlink()
        client.app.state.observer.health.refresh()  # type: ignore[attr-defined]
        assert "has not started" in client.get("/readyz").json()["detail"]
    collector.close()
    with TestClient(create_app(Config.model_validate(tables))) as client:
        assert "nothing answers at" in client.get("/readyz").json()["detail"]


def test_every_operation_has_a_summary_and_every_answer_an_example(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
    for name, schema in document["components"]["schemas"].items():
        for field, value in schema.get("properties", {}).items():
            known = value.keys() & {"examples", "$ref", "anyOf", "items", "default", "const"}
            assert known or name.endswith("Error"), (name, field)
