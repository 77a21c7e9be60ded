"""Reports to keep: Markdown, JUnit XML, and a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from html import escape
from typing import Any, Final
from xml.etree import ElementTree

from api.drills.model import Report
from api.drills.plot import plot

_TIMES: Final = (
    ("detection_ms", "until a node took notice"),
    ("vip_move_ms", "until another node's kernel had the VIP"),
    ("first_datagram_ms", "until the first datagram came to another node"),
    ("first_flow_ms", "until the first flow record was on disk there"),
    ("longest_gap_ms", "longest gap in what was sent"),
    ("restored_ms", "from the fault's end until all nodes were well"),
)
Table = tuple[list[str], list[list[str]]]
"""Head and rows."""


def title(report: Report) -> str:
    """One line."""
    result = "passed" if report.passed else "failed"
    return f"Drill {report.id}: {report.kind} of {report.before}, {result}"


def _lines(report: Report) -> list[str]:
    at = datetime.fromtimestamp(report.fault_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    goals = [f"{k} ≤ {v:g}" for k, v in report.objective.items() if isinstance(v, int | float)]
    moved = f"then held by {report.after}" if report.after else "then not held by one node"
    return [
        f"Cluster {report.cluster}, VIP {report.vip}, held by {report.before}, {moved}. Fault at "
        f"{at} by the clock of the node that did the drill; the nodes' clocks could be compared to "
        f"{report.clock_uncertainty_ms:g} ms.",
        f"Load: {report.rate} datagrams/s asked for, from {report.source} "
        f"({', '.join(report.exporters) or 'nothing came'}), IPFIX domain {report.domain}.",
        f"Objective: {', '.join(goals) or 'none'}.",
        *(f"Missed: {text}." for text in report.exceeded),
        *(f"Problem: {text}." for text in report.problems),
    ]


def _tables(report: Report) -> dict[str, Table]:
    times = []
    for name, words in _TIMES:
        value = getattr(report, name)
        shown = (
            f"not measured: {report.unmeasured.get(name, '')}" if value is None else f"{value:g}"
        )
        times.append([words, shown])
    found: dict[str, Table] = {
        "Times": (["after the fault", "ms"], times),
        "Datagrams": (
            ["", "datagrams"],
            [
                [name.replace("_", " "), str(getattr(report, name))]
                for name in ("sent", "stored", "lost", "duplicated", "on_several_nodes")
            ],
        ),
        "Nodes": (
            ["node", "stored", "twice", "in part", "received by ledger", "named losses"],
            [
                [n.node, *map(_cell, (n.stored, n.duplicated, n.partly, n.received,
                                      n.named_losses))]
                for n in report.nodes
            ],
        ),
    }  # fmt: skip
    if report.holes:
        found["Holes"] = (
            ["ms after the fault", "datagrams", "gap ms"],
            [
                [f"{h.after_fault_ms:g}", str(h.datagrams),
                 f"{h.gap_ms:g}" + (", to the end" if h.to_the_end else "")]
                for h in report.holes
            ],
        )  # fmt: skip
    if report.others:
        found["Other exporters meanwhile, by the nodes' ledgers"] = (
            ["exporter", "protocol", "domain", "node", "received", "lost on the way", "twice",
             "named losses"],
            [
                [o.exporter, o.protocol, str(o.domain), o.node,
                 *map(_cell, (o.received, o.sequence_lost, o.duplicates, o.named_losses))]
                for o in report.others
            ],
        )  # fmt: skip
    found["Course"] = (
        ["s after the fault", "what"],
        [[f"{(e.time_ns - report.fault_ns) / 1e9:.3f}", e.text] for e in report.events],
    )
    return found


def _number(value: Any) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _cell(value: int | None) -> str:
    return "not known" if value is None else str(value)


def markdown(report: Report) -> str:
    """For a ticket, or a page in a repository."""
    out = [f"# {title(report)}", "", *(f"{line}  " for line in _lines(report))]
    for name, (head, rows) in _tables(report).items():
        out += ["", f"## {name}", ""]
        out += [
            f"| {' | '.join(_plain(c) for c in line)} |" for line in (head, ["---"] * len(head))
        ]
        out += [f"| {' | '.join(_plain(cell) for cell in row)} |" for row in rows]
    return "\n".join(out) + "\n"


def _plain(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def junit(report: Report) -> str:
    """A test case a drill: what a build server counts and shows."""
    failures = [*report.exceeded, *report.problems]
    seconds = f"{(report.events[-1].time_ns - report.events[0].time_ns) / 1e9:.3f}" \
        if report.events else "0"  # fmt: skip
    counts = {"tests": "1", "failures": str(int(bool(failures))), "errors": "0", "time": seconds}
    suite = ElementTree.Element("testsuite", {"name": f"tandem drill {report.cluster}", **counts})
    case = ElementTree.SubElement(
        suite, "testcase", {"classname": f"drill.{report.kind}", "name": report.id, "time": seconds}
    )
    properties = ElementTree.SubElement(case, "properties")
    for name in (*dict(_TIMES), "sent", "stored", "lost", "duplicated", "on_several_nodes"):
        value = getattr(report, name)
        if value is not None:
            ElementTree.SubElement(properties, "property", {"name": name, "value": _number(value)})
    if failures:
        failure = ElementTree.SubElement(case, "failure", {"message": "; ".join(failures)})
        failure.text = "\n".join(failures)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0}td,th{border:1px solid #ccc;padding:.2rem .6rem;"
    "text-align:left}svg{width:100%;height:auto}"
)


def html(report: Report) -> str:
    """A page without scripts or anything from elsewhere."""
    out = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title(report))}'
        f"</title><style>{_STYLE}</style></head><body><h1>{escape(title(report))}</h1>",
        *(f"<p>{escape(line)}</p>" for line in _lines(report)),
        plot(report),
    ]
    for name, (head, rows) in _tables(report).items():
        cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
        )
        out.append(f"<h2>{escape(name)}</h2><table><tr>{cells}</tr>{body}</table>")
    return "\n".join(out) + "\n</body></html>\n"


FORMATS: Final[dict[str, tuple[Callable[[Report], str], str]]] = {
    "markdown": (markdown, "text/markdown"),
    "junit": (junit, "application/xml"),
    "html": (html, "text/html"),
}
