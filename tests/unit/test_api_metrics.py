from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from api.app import create_app
from api.exposition import Metric, render
from appliance.config import Config
from tests.unit.store_samples import T0, flows, write_hot

_SAMPLE = re.compile(r'([a-z_][a-z0-9_]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)')


def parse(text: str) -> dict[str, dict[str, float]]:
    """Values by metric and labels; fails on any line that the format does not allow."""
    found: dict[str, dict[str, float]] = {}
    types: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            continue
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in types, f"{name} is there twice"
            assert name.endswith("_total") == (kind == "counter"), line
            types[name] = kind
            continue
        match = _SAMPLE.fullmatch(line)
        assert match, line
        assert match[1] in types, f"{line} comes before its type"
        series = found.setdefault(match[1], {})
        assert (match[2] or "") not in series, f"{line} is there twice"
        series[match[2] or ""] = float(match[3])
    return found


def scrape(data_dir: Path, **config: Any) -> dict[str, dict[str, float]]:
    values = Config.model_validate({"data_dir": data_dir, **config})
    with TestClient(create_app(values)) as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return parse(answer.text)


def write_node(data_dir: Path) -> None:
    now = time.time_ns()
    listener = {"address": "::", "port": 2055, "transport": "udp"}
    document = {
        "node": "a",
        "version": "1.2.3",
        "pid": 1,
        "started_ns": now,
        "updated_ns": now,
        "workers": [{"pid": 2, "shards": [0], "load": 0.25}],
        "listeners": [{**listener, "datagrams": 7, "bytes": 700, "kernel_dropped": 3}],
        "shards": [
            {
                "shard": 0,
                "lag_datagrams": 2,
                "uncounted": 3,
                "templates_evicted": 4,
                "balanced": False,
                "imbalances": ["x"],
            }
        ],
    }
    (data_dir / "node.json").write_text(json.dumps(document))


def test_a_node_without_a_collector_is_not_ready_but_can_be_scraped(tmp_path: Path) -> None:
    found = scrape(tmp_path)
    assert found["tandem_ready"][""] == 0
    assert found["tandem_store_records"]['table="flows"'] == 0
    assert found["tandem_disk_free_bytes"][""] > 0


def test_listeners_shards_and_workers_are_shown(tmp_path: Path) -> None:
    write_node(tmp_path)
    found = scrape(tmp_path)
    assert found["tandem_ready"][""] == 1
    labels = 'transport="udp",address="::",port="2055"'
    assert found["tandem_listener_datagrams_total"][labels] == 7
    assert found["tandem_listener_received_bytes_total"][labels] == 700
    assert found["tandem_listener_dropped_datagrams_total"][labels] == 3
    assert found["tandem_journal_lag_datagrams"]['shard="0"'] == 2
    assert found["tandem_ledger_uncounted_datagrams_total"]['shard="0"'] == 3
    assert found["tandem_templates_evicted_total"]['shard="0"'] == 4
    assert found["tandem_ledger_balanced"]['shard="0"'] == 0
    assert found["tandem_workers_load"][""] == 0.25
    assert any('version="1.2.3"' in labels for labels in found["tandem_build_info"])


def test_the_store_is_measured(tmp_path: Path) -> None:
    for number in range(2):
        write_hot(tmp_path / "store" / "flows", flows(10, T0 + number), number)
    found = scrape(tmp_path)
    assert found["tandem_store_records"]['table="flows"'] == 20
    assert found["tandem_store_files"]['table="flows",state="hot"'] == 2
    assert found["tandem_store_oldest_record_time_seconds"]['table="flows"'] == T0 / 1e9
    assert found["tandem_store_bytes"]['table="flows"'] > 0


def test_labels_and_helps_are_escaped() -> None:
    metric = Metric("x_total", "counter", "a\\b\nc")
    metric.add(1, name='q"\\\n')
    text = render([metric])
    assert text == (
        "# HELP tandem_x_total a\\\\b\\nc\n"
        "# TYPE tandem_x_total counter\n"
        'tandem_x_total{name="q\\"\\\\\\n"} 1\n'
    )
    assert parse(text)
