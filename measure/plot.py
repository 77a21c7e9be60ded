"""``python -m measure plot``: a report in Markdown with a plot for each case.

Reads ``<case>.iperf.json`` (measure iperf) and ``<case>.judge.json`` (measure judge) in a
directory, and writes ``report.md`` and ``<case>.svg`` there.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.report import Table, count

_HEAD = ["case", "Mbit/s", "lowest", "outage ms", "datagrams sent", "lost", "gap ms", "takeover ms"]
_NOTES = [
    "Mbit/s: mean of all steps of 0.1 s, and the lowest step; outage: longest time without a byte. "
    "Datagrams: those of the load beside it, as the nodes have stored them.",
]


@dataclass(frozen=True, slots=True)
class Case:
    """What was measured at the same time; either may be missing."""

    name: str
    throughput: dict[str, Any] | None
    judgement: dict[str, Any] | None

    @property
    def event_ns(self) -> int | None:
        """When something was done."""
        event = (self.throughput or {}).get("event")
        told = event["begin_ns"] if event else (self.judgement or {}).get("event_ns")
        return None if told is None else int(told)

    @property
    def begin_ns(self) -> int:
        """The zero of the time axis."""
        begins = [self.throughput["begin_ns"]] if self.throughput else []
        begins += [load["series"]["begin_ns"] for load in (self.judgement or {}).get("loads", ())]
        return int(min(begins))


def read_cases(directory: Path) -> list[Case]:
    """All cases of a directory, by name."""

    def read(kind: str) -> dict[str, Any]:
        end = f".{kind}.json"
        found = sorted(directory.glob(f"*{end}"))
        return {path.name.removesuffix(end): json.loads(path.read_text()) for path in found}

    throughput, judgements = read("iperf"), read("judge")
    names = sorted(throughput.keys() | judgements.keys())
    return [Case(name, throughput.get(name), judgements.get(name)) for name in names]


def rates(throughput: dict[str, Any]) -> list[tuple[int, int, float]]:
    """From, to (ns) and Mbit/s, without holes: where no client measured, nothing was sent."""
    found: list[tuple[int, int, float]] = []
    at = int(throughput["begin_ns"])
    for first, last, size in throughput["steps"]:
        if first > at:
            found.append((at, first, 0.0))
        found.append((first, last, 8e3 * size / (last - first)))
        at = last
    return found


def _outage_ms(steps: list[tuple[int, int, float]]) -> float:
    longest = since = 0
    for first, last, rate in steps:
        since = since + last - first if not rate else 0
        longest = max(longest, since)
    return longest / 1e6


def row(case: Case) -> list[str]:
    """The case in figures."""
    cells = [case.name]
    steps = rates(case.throughput) if case.throughput else []
    if steps:
        values = [rate for _, _, rate in steps]
        cells += [count(mean(values)), count(min(values)), count(_outage_ms(steps))]
    else:
        cells += ["–"] * 3
    if not case.judgement:
        return cells + ["–"] * 4
    figures = (case.judgement[n] for n in ("sent", "lost"))
    times = (case.judgement[n] for n in ("longest_gap_ms", "takeover_ms"))
    return [*cells, *map(count, figures), *("–" if t is None else f"{t:.1f}" for t in times)]


def draw(case: Case, path: Path) -> None:
    """Throughput above, the load below, on one time axis."""
    parts = [part for part in (case.throughput, case.judgement) if part]
    figure, axes = plt.subplots(
        len(parts), 1, sharex=True, figsize=(9, 2.6 * len(parts)), squeeze=False
    )
    drawn = list(axes[:, 0])
    if case.throughput:
        _draw_throughput(drawn[0], case, rates(case.throughput))
    if case.judgement:
        _draw_load(drawn[-1], case, case.judgement)
    for axis in drawn:
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if case.event_ns is not None:
            axis.axvline((case.event_ns - case.begin_ns) / 1e9, color="crimson", linestyle="--")
    drawn[-1].set_xlabel("seconds; dashed: the event")
    figure.suptitle(case.name)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _draw_throughput(axis: Axes, case: Case, steps: list[tuple[int, int, float]]) -> None:
    edges = [(first - case.begin_ns) / 1e9 for first, _, _ in steps]
    edges += [(steps[-1][1] - case.begin_ns) / 1e9] if steps else [0.0]
    axis.stairs([rate for _, _, rate in steps], edges)
    axis.set_ylabel("Mbit/s")


def _draw_load(axis: Axes, case: Case, judgement: dict[str, Any]) -> None:
    for load in judgement["loads"]:
        series = load["series"]
        step = series["step_ms"] / 1e3
        begin = (series["begin_ns"] - case.begin_ns) / 1e9
        # the last step is only a part of one
        lines = {"sent": series["sent"], **series["stored"]}
        for name, values in lines.items():
            whole = [value / step for value in values[:-1]]
            colour, line = ("grey", ":") if name == "sent" else (None, "-")
            axis.stairs(
                whole,
                [begin + i * step for i in range(len(whole) + 1)],
                label=name,
                color=colour,
                linestyle=line,
            )
    axis.set_ylabel("datagrams/s")
    axis.legend(loc="lower left", fontsize="small")


def write_report(directory: Path, title: str) -> Path:
    """Write the report and its plots; the report's path."""
    cases = read_cases(directory)
    table = Table("Summary", _HEAD, [row(case) for case in cases], _NOTES)
    parts = [f"# {title}\n", table.markdown()]
    for case in cases:
        draw(case, directory / f"{case.name}.svg")
        parts.append(f"## {case.name}\n\n![{case.name}]({case.name}.svg)\n")
    path = directory / "report.md"
    path.write_text("\n".join(parts))
    return path


def main(argv: list[str]) -> int:
    """Write the report; the status is 1 if there is nothing to report."""
    parser = argparse.ArgumentParser(prog="python -m measure plot", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--title", default="Benchmark")
    chosen = parser.parse_args(argv)
    if not read_cases(chosen.directory):
        sys.stderr.write(f"{chosen.directory} has no file <case>.iperf.json or .judge.json\n")
        return 1
    sys.stdout.write(f"{write_report(chosen.directory, chosen.title)}\n")
    return 0
