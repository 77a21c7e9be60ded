"""``python -m measure report``: the results of repeated runs, as tables in Markdown.

Reads the judge's files ``<scenario>-<event>-<number>.json`` in a directory.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import Table

_NAME = re.compile(r"(?P<scenario>[^-]+)-(?P<event>.+)-(?P<number>\d+)\.json")
_HEAD = ["event", "goal", "runs", "lost", "gap ms", "takeover ms", "settled ms", "result"]

Result = dict[str, Any]


def read_results(directory: Path) -> dict[str, dict[str, list[Result]]]:
    """The results by scenario and event."""
    found: dict[str, dict[str, list[Result]]] = {}
    for path in sorted(directory.glob("*.json")):
        if match := _NAME.fullmatch(path.name):
            events = found.setdefault(match["scenario"], {})
            events.setdefault(match["event"], []).append(json.loads(path.read_text()))
    return found


def tables(directory: Path) -> list[Table]:
    """A table for each scenario, a row for each event."""
    return [
        Table(
            scenario.replace("_", " "),
            _HEAD,
            [_row(event, results) for event, results in events.items()],
            ["Figures are median / maximum of the runs; lost: datagrams."],
        )
        for scenario, events in read_results(directory).items()
    ]


def _row(event: str, results: list[Result]) -> list[str]:
    passed = sum(result["passed"] for result in results)
    names = ("lost", "longest_gap_ms", "takeover_ms", "settled_ms")
    return [
        re.sub("[_-]", " ", event),
        _goal(results[0]["limits"]),
        str(len(results)),
        *(_figure(result[name] for result in results) for name in names),
        "pass" if passed == len(results) else f"**fail** ({len(results) - passed})",
    ]


def _goal(limits: dict[str, float | None]) -> str:
    texts = (
        ("max_lost", "{:g} lost"),
        ("max_gap_ms", "≤ {:g} ms gap"),
        ("max_takeover_ms", "takeover ≤ {:g} ms"),
        ("max_settled_ms", "settled ≤ {:g} ms"),
    )
    found = [text.format(value) for name, text in texts if (value := limits.get(name)) is not None]
    return ", ".join(found) or "consistent"


def _figure(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return " / ".join(f"{value:.1f}".removesuffix(".0") for value in (median(known), max(known)))


def main(argv: list[str]) -> int:
    """Print the tables; the status is 1 if there are none, or a run has failed."""
    parser = argparse.ArgumentParser(prog="python -m measure report", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--output", type=Path, help="write them there instead of printing them")
    chosen = parser.parse_args(argv)
    found = tables(chosen.directory)
    if not found:
        sys.stderr.write(f"{chosen.directory} has no file <scenario>-<event>-<number>.json\n")
        return 1
    text = "\n".join(table.markdown() for table in found)
    if chosen.output:
        chosen.output.write_text(text)
    else:
        sys.stdout.write(text)
    return int(any(row[-1] != "pass" for table in found for row in table.rows))
