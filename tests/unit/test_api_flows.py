from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from appliance.columns import Column, record_batch
from appliance.config import Config
from appliance.query.engine import QueryTimeoutError
from appliance.schema import ADDRESS, EXTRA
from tests.unit.store_samples import T0, address, flows, write_hot

SECOND = 10**9
WINDOW = {"since": str(T0), "until": str(T0 + 3600 * SECOND)}


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return flows(200, T0, step_ns=SECOND)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, table: pa.Table) -> Iterator[TestClient]:
    data_dir = tmp_path_factory.mktemp("data")
    folder = data_dir / "store" / "flows"
    write_hot(folder, table.slice(0, 120), 0)
    write_hot(folder, table.slice(120), 1)
    with TestClient(create_app(Config(data_dir=data_dir)), raise_server_exceptions=False) as client:
        yield client


def get(client: TestClient, path: str, **parameters: Any) -> dict[str, Any]:
    answer = client.get(path, params={**WINDOW, **parameters})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(client: TestClient, path: str, **parameters: Any) -> dict[str, Any]:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    return found


def test_top_sums_the_rows_of_all_segments(client: TestClient, table: pa.Table) -> None:
    found = get(client, "/v1/flows/top", by="exporter", limit=5)
    assert found["total"]["bytes"] == sum(table["bytes"].to_pylist())
    assert found["total"]["flows"] == 200
    assert {row["exporter"] for row in found["rows"]} == {"10.0.0.1", "10.0.0.2"}
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1)
    assert (found["since_ns"], found["until_ns"]) == (T0, T0 + 3600 * SECOND)


def test_top_is_ordered_by_the_metric_and_cut_at_the_limit(client: TestClient) -> None:
    found = get(client, "/v1/flows/top", by="src,out_if", metric="packets", limit=3)["rows"]
    assert len(found) == 3
    assert {"src_addr", "out_if"} <= set(found[0])
    packets = [row["packets"] for row in found]
    assert packets == sorted(packets, reverse=True)


def test_a_filter_narrows_every_query(client: TestClient, table: pa.Table) -> None:
    first = sum(table["bytes"].to_pylist()[0::2])
    for path in ("/v1/flows/top", "/v1/flows/series"):
        assert get(client, path, filter="exporter 10.0.0.1")["total"]["bytes"] == first
    rows = get(client, "/v1/flows/search", filter="exporter 10.0.0.1", limit=200)["rows"]
    assert sum(row["bytes"] for row in rows) == first


def test_a_series_has_a_row_for_each_step(client: TestClient) -> None:
    found = get(client, "/v1/flows/series", step="1m")["rows"]
    assert [row["time_ns"] for row in found] == [T0 + i * 60 * SECOND for i in range(4)]
    assert [row["flows"] for row in found] == [60, 60, 60, 20]


def test_pages_of_a_search_hold_each_record_once(client: TestClient, table: pa.Table) -> None:
    seen: list[int] = []
    page = get(client, "/v1/flows/search", columns="received_ns,flow_id", limit=70)
    while True:
        seen += [row["flow_id"] for row in page["rows"]]
        if page["next"] is None:
            break
        page = get(
            client,
            "/v1/flows/search",
            columns="received_ns,flow_id",
            limit=70,
            token=page["next"],
            since=page["since_ns"],
            until=page["until_ns"],
        )
    assert seen == list(reversed(table["flow_id"].to_pylist()))


def test_a_record_is_shown_with_all_that_it_has_and_nothing_else(tmp_path: Path) -> None:
    one = flows(1, T0)
    extra = pa.array([[("9.12235", "0a0b")]], EXTRA)
    more = record_batch(
        {
            "dst_addr": Column(np.frombuffer(address("2001:db8::1"), np.uint8)[None], ADDRESS),
            "src_mac": Column(np.array([0x001B54AABBCC], np.uint64), pa.uint64()),
            "payload": Column(pa.array([b"\x01\xff"]), pa.binary()),
            "extra": Column(extra, EXTRA),
        }
    )
    for name in more.schema.names:
        one = one.append_column(name, more[name])
    write_hot(tmp_path / "store" / "flows", one, 0)
    with TestClient(create_app(Config(data_dir=tmp_path))) as client:
        row = get(client, "/v1/flows/search", columns="all")["rows"][0]
    assert row["dst_addr"] == "2001:db8::1"
    assert row["src_mac"] == "00:1b:54:aa:bb:cc"
    assert row["payload"] == "01ff"
    assert "9.12235" in json.dumps(row["extra"])
    assert "src_as" not in row


def test_exporters_are_shown_with_the_names_of_the_configuration(tmp_path: Path) -> None:
    write_hot(tmp_path / "store" / "flows", flows(4, T0), 0)
    described = {"exporter": [{"address": "10.0.0.1", "name": "core"}], "data_dir": tmp_path}
    with TestClient(create_app(Config.model_validate(described))) as client:
        found = get(client, "/v1/exporters")["rows"]
        page = get(client, "/v1/exporters", limit=1, offset=1)
    assert [(row["exporter"], row["name"], row["flows"]) for row in found] == [
        ("10.0.0.1", "core", 2),
        ("10.0.0.2", None, 2),
    ]
    assert (page["of"], [row["exporter"] for row in page["rows"]]) == (2, ["10.0.0.2"])


def test_without_a_begin_the_last_hour_is_meant(client: TestClient) -> None:
    answer = client.get("/v1/flows/top")
    assert answer.status_code == 200
    found = answer.json()
    assert found["until_ns"] - found["since_ns"] == 3600 * SECOND
    assert found["rows"] == []


def test_times_are_iso_8601_or_nanoseconds(client: TestClient) -> None:
    expected = get(client, "/v1/flows/top")
    iso = {"since": "2023-11-14T22:00:00Z", "until": "2023-11-14T23:00:00Z"}
    assert get(client, "/v1/flows/top", **iso) == expected
    offset = {"since": "2023-11-15T00:00:00+02:00", "until": "2023-11-14T23:00:00"}
    assert get(client, "/v1/flows/top", **offset) == expected
    unescaped = client.get(f"/v1/flows/top?since=2023-11-15T00:00:00+02:00&until={WINDOW['until']}")
    assert unescaped.json() == expected
    last = client.get("/v1/flows/top", params={"until": WINDOW["until"], "last": "1h"})
    assert last.json() == expected


@pytest.mark.parametrize(
    ("path", "parameters", "field", "said"),
    [
        ("top", {"limit": 10_001}, "limit", "10000"),
        ("top", {"limit": 0}, "limit", "greater than or equal to 1"),
        ("top", {"limit": "x"}, "limit", "'x'"),
        ("top", {"metric": "colour"}, "metric", "'bytes'"),
        ("top", {"limt": 1}, "limt", "no such parameter"),
        ("top", {"by": ["src", "dst_port"]}, "by", "given twice"),
        ("top", {"filter": "x" * 4097}, "filter", "4096"),
        ("top", {"filter": "src net"}, "filter", "at character"),
        ("top", {"since": "some day"}, "since", "2025-01-31T12:00"),
        ("top", {"last": "3 weeks"}, "last", "a duration such as"),
        ("top", {"last": "0s"}, "last", "no time at all"),
        ("top", {"since": "1h", "until": "2h"}, "query", "since must be before until"),
        ("top", {"since": "2h", "last": "1h"}, "query", "exclude each other"),
        ("top", {"since": str(2**63)}, "since", "after 2262"),
        ("series", {"step": "-1s"}, "step", "a duration"),
        ("series", {"step": "1ms"}, "step", "use a longer step"),
        ("series", {"step": "1s", "limit": 99, "by": "src"}, "step", "100 groups"),
        ("series", {"limit": 101}, "limit", "100"),
        ("search", {"token": "x" * 201}, "token", "200"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_by_name(
    client: TestClient, path: str, parameters: dict[str, Any], field: str, said: str
) -> None:
    document = refused(client, f"/v1/flows/{path}", **parameters)
    assert [e["field"] for e in document["errors"]] == [field]
    assert said in document["errors"][0]["reason"]
    assert field in document["detail"]


@pytest.mark.parametrize(
    ("path", "parameters", "said"),
    [
        ("top", {"by": "colour"}, "colour"),
        ("top", {"by": "src,src_addr"}, "named twice"),
        ("top", {"by": "dst_port/8"}, "not an address"),
        ("search", {"columns": "colour"}, "colour"),
        ("search", {"token": "AAAA"}, "no token"),
    ],
)
def test_a_query_that_cannot_be_answered_says_why(
    client: TestClient, path: str, parameters: dict[str, Any], said: str
) -> None:
    document = refused(client, f"/v1/flows/{path}", **parameters)
    assert document["type"].endswith(":invalid-query")
    assert said in document["detail"]


def test_a_query_that_was_ended_for_its_length_says_what_to_do(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: Any, **__: Any) -> None:
        raise QueryTimeoutError("30 s")

    monkeypatch.setattr("api.flows.top", slow)
    answer = client.get("/v1/flows/top")
    assert answer.status_code == 503
    assert answer.json()["type"].endswith(":query-timeout")
    assert "shorter time range" in answer.json()["detail"]


def test_openapi_has_an_example_for_every_operation(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            content = next(a for status, a in answers.items() if status < "300").get("content")
            if content is None:
                assert "204" in answers, f"{method} {path} says nothing of its answer"
                continue
            body = content.get("application/json") or content.get("text/plain")
            if body is None:
                continue  # a stream, or a file
            shown = "example" in body or _has_examples(document, body["schema"])
            assert shown, f"{method} {path} has no example"


def _has_examples(document: dict[str, Any], schema: dict[str, Any]) -> bool:
    if "examples" in schema or "example" in schema:
        return True
    if name := schema.get("$ref", "").rpartition("/")[2]:
        properties = document["components"]["schemas"][name]["properties"].values()
        return any("examples" in p or "example" in p for p in properties) or any(
            _has_examples(document, {"$ref": part["$ref"]})
            for p in properties
            for part in p.get("anyOf", ())
            if "$ref" in part
        )
    parts = [schema.get("items", {}), *schema.get("anyOf", ())]
    return any(_has_examples(document, part) for part in parts if part)
