"""Every query of the dashboards, asked of a Prometheus: ``python -m tests.monitoring.queries``."""

from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

DASHBOARDS = Path(__file__).parents[2] / "roles/monitoring/files/dashboards"

MAY_BE_EMPTY = {
    ("tandem-cluster", "Alerts that fire"): "none may",
    ("tandem-ledger", "Records that left the store"): "none may have, yet",
}
"""Queries that find nothing in good health, and why."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a panel asks, with the dashboard's variables at their defaults (all)."""

    dashboard: str
    panel: str
    expression: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel}: {self.expression}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What Prometheus said: the number of series, or what was wrong."""

    query: Query
    series: int = 0
    error: str = ""

    @property
    def problem(self) -> str:
        """Why this is not what a panel needs; empty when it is."""
        if self.error:
            return self.error
        if self.series == 0 and (self.query.dashboard, self.query.panel) not in MAY_BE_EMPTY:
            return "no data"
        return ""


def panels(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels of a dashboard, rows among them."""
    for panel in document["panels"]:
        yield panel
        yield from panel.get("panels", ())


def queries(rate_interval: str, folder: Path = DASHBOARDS) -> Iterator[Query]:
    """Of every dashboard; ``rate_interval`` as Grafana has it: four scrapes at least."""
    fixed = {"__rate_interval": rate_interval, "__range": rate_interval}
    for file in sorted(folder.glob("*.json")):
        document = json.loads(file.read_text())
        variables = document["templating"]["list"]
        values = fixed | {v["name"]: v.get("allValue", "") for v in variables}
        for panel in panels(document):
            for target in panel.get("targets", ()):
                text = Template(target["expr"]).substitute(values)
                yield Query(document["uid"], panel["title"], text)


def get(url: str, path: str, token: str = "", **parameters: str) -> Any:
    """``data`` of an answer of Prometheus' HTTP API."""
    request = urllib.request.Request(
        f"{url.rstrip('/')}/api/v1/{path}?{urllib.parse.urlencode(parameters)}",
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        try:
            raise ValueError(json.loads(text)["error"]) from error
        except (KeyError, json.JSONDecodeError):
            raise ValueError(f"{error.code} {error.reason}: {text[:200]}") from error


def ask(url: str, wanted: Iterable[Query], token: str = "") -> list[Answer]:
    """Put the queries to the Prometheus at ``url``."""
    found = []
    for query in wanted:
        try:
            series = len(get(url, "query", token, query=query.expression)["result"])
            found.append(Answer(query, series))
        except ValueError as error:
            found.append(Answer(query, error=str(error)))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Name what finds nothing; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.monitoring.queries", description=__doc__)
    parser.add_argument("--url", required=True, help="of Prometheus, as http://127.0.0.1:9090")
    parser.add_argument("--token", default="", help="bearer token, if a proxy asks for one")
    parser.add_argument("--rate-interval", default="1m", help="four scrapes or more")
    parser.add_argument(
        "--without", action="append", default=[], metavar="PREFIX",
        help="leave out queries of metrics that begin so, as keepalived_",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    wanted = [
        query
        for query in queries(options.rate_interval)
        if not any(re.search(rf"\b{prefix}", query.expression) for prefix in options.without)
    ]
    answers = ask(options.url, wanted, options.token)
    bad = [answer for answer in answers if answer.problem]
    for answer in bad:
        print(f"{answer.query}\n    {answer.problem}")
    print(f"{len(answers)} queries, {len(bad)} without an answer")
    return 1 if bad or not answers else 0


if __name__ == "__main__":
    sys.exit(main())
