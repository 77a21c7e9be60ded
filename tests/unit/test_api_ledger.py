from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.ledger_metrics import metric_name
from appliance.config import Config
from appliance.ledger.counters import COUNTERS
from tests.builders import template_set, v5, v5_record, v9
from tests.unit.node_samples import write_shard
from tests.unit.test_api_metrics import parse

V5 = v5([v5_record(), v5_record()])
V9 = v9([template_set(256, [(0, 8, 4)], False), template_set(257, [(0, 12, 4)], False)])


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    write_shard(tmp_path, 0, [("10.0.0.1", V5), ("10.0.0.1", V9)])
    write_shard(tmp_path, 1, [("10.0.0.2", V5)] * 3)
    config = Config.model_validate({"data_dir": tmp_path, "metrics": {"exporters": 1}})
    with TestClient(create_app(config)) as client:
        yield client


def test_the_ledger_has_a_row_for_each_source_and_balances(client: TestClient) -> None:
    found = client.get("/v1/ledger").json()
    assert found["balanced"] is True
    assert (found["of"], found["torn"]) == (3, 2)
    assert [(r["exporter"], r["protocol"], r["records_stored"]) for r in found["rows"]] == [
        ("10.0.0.1", "NETFLOW_V5", 2),
        ("10.0.0.1", "NETFLOW_V9", 0),
        ("10.0.0.2", "NETFLOW_V5", 6),
    ]
    assert set(found["retired"]) == {"expired", "disk_full", "corrupt"}


def test_ledger_and_templates_can_be_narrowed_and_paged(client: TestClient) -> None:
    one = client.get("/v1/ledger", params={"exporter": "::ffff:10.0.0.2"}).json()
    assert [row["exporter"] for row in one["rows"]] == ["10.0.0.2"]
    second = client.get("/v1/ledger", params={"limit": 1, "offset": 1}).json()
    assert [row["protocol"] for row in second["rows"]] == ["NETFLOW_V9"]
    templates = client.get("/v1/templates", params={"limit": 1, "offset": 1}).json()
    assert templates["of"] == 2
    assert [t["id"] for t in templates["rows"]] == [257]
    assert client.get("/v1/templates", params={"exporter": "10.0.0.2"}).json()["rows"] == []


@pytest.mark.parametrize("parameters", [{"exporter": "core-1"}, {"limit": 10_001}, {"offset": -1}])
def test_wrong_parameters_are_named(client: TestClient, parameters: dict[str, str]) -> None:
    for path in ("/v1/ledger", "/v1/templates"):
        answer = client.get(path, params=parameters)
        assert answer.status_code == 422
        assert [e["field"] for e in answer.json()["errors"]] == list(parameters)


def test_a_damaged_checkpoint_is_a_problem_and_metrics_go_on_without_the_ledger(
    client: TestClient, tmp_path: Path
) -> None:
    (tmp_path / "shards" / "0" / "checkpoint").write_bytes(b"x")
    answer = client.get("/v1/ledger")
    assert answer.status_code == 503
    assert "shards/0/checkpoint" in answer.json()["detail"]
    found = parse(client.get("/metrics").text)
    assert "tandem_store_records" in found
    assert "tandem_ledger_imbalances" not in found


def test_the_busiest_exporters_have_their_own_metrics_and_the_others_one(
    client: TestClient,
) -> None:
    found = parse(client.get("/metrics").text)
    assert found["tandem_exporter_received_datagrams_total"] == {
        'exporter="10.0.0.2",protocol="netflow_v5"': 3,
        'exporter="others",protocol="netflow_v5"': 1,
        'exporter="others",protocol="netflow_v9"': 1,
    }
    assert found["tandem_ledger_imbalances"][""] == 0


def test_names_of_metrics_end_in_their_unit_and_are_all_different() -> None:
    names = {c.name: metric_name(c) for c in COUNTERS}
    assert names["datagrams_decoded"] == "decoded_datagrams_total"
    assert names["datagrams_held"] == "held_datagrams"
    assert names["options_decoded"] == "options_decoded_records_total"
    assert names["sequence_lost"] == "sequence_lost"
    assert names["sequence_restarts"] == "sequence_restarts"
    assert len(set(names.values())) == len(COUNTERS)
