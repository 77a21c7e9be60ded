"""The dashboards are what Grafana reads, and each panel says what it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring.queries import DASHBOARDS, MAY_BE_EMPTY, panels

jsonschema = pytest.importorskip("jsonschema", reason="comes with the tools of the controller")

FILES = sorted(DASHBOARDS.glob("*.json"))
SCHEMA = json.loads(Path(__file__).with_name("dashboard.schema.json").read_text())
ROW_WIDTH = 24


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_there_is_one_for_each_subject() -> None:
    found = {load(path)["uid"] for path in FILES}
    subjects = "cluster", "collector", "ledger", "exporters", "failover", "haproxy", "host"
    assert found == {f"tandem-{name}" for name in subjects}
    assert {path.stem for path in FILES} == set(subjects)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_follows_the_schema(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert [f"{e.json_path}: {e.message}" for e in validator.iter_errors(load(path))] == []


@pytest.mark.parametrize(
    "broken",
    [{"type": "graph"}, {"description": ""}, {"datasource": {"uid": "x"}}, {"targets": []}],
)
def test_the_schema_refuses_what_is_wrong(broken: dict[str, Any]) -> None:
    document = load(FILES[0])
    document["panels"][0].update(broken)
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(document)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_lie_beside_each_other(path: Path) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in load(path)["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= ROW_WIDTH, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["title"])
                assert other == panel["title"], f"{other} and {panel['title']}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_names_are_unique(path: Path) -> None:
    found = list(panels(load(path)))
    assert len({panel["id"] for panel in found}) == len(found)
    assert len({panel["title"] for panel in found}) == len(found)
    for panel in found:
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(letters)) == len(letters), panel["title"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_legends_name_labels_that_the_query_leaves(path: Path) -> None:
    for panel in panels(load(path)):
        for target in panel.get("targets", ()):
            kept = re.search(r"\bby \(([^)]*)\)", target["expr"])
            if kept:
                named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                assert named <= set(re.split(r",\s*", kept[1])), panel["title"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_variables_are_used_as_they_are_declared(path: Path) -> None:
    document = load(path)
    declared = {variable["name"] for variable in document["templating"]["list"]}
    text = json.dumps(document["panels"])
    used = set(re.findall(r"\$\{?([a-z]+)", text))
    assert used == declared


def test_what_may_be_empty_exists() -> None:
    found = {(load(path)["uid"], p["title"]) for path in FILES for p in panels(load(path))}
    assert set(MAY_BE_EMPTY) <= found
