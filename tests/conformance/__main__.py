"""``python -m tests.conformance [DIRECTORY]``: the table; exit status 1 if not all is well."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.conformance.corpus import cases, default_directory
from tests.conformance.run import Outcome, listed, run

COLUMNS = ("captures", "records", "found", "extra", "fields", "equal", "listed", "unlisted")


def figures(outcomes: list[Outcome], rest: bool) -> list[int]:
    """A row of the table: of flow records, or (``rest``) of options data and counters."""
    results = [o.rest if rest else o.flows for o in outcomes]
    own = [
        [sum(d in r.deviations for d in kind) for r, kind in zip(results, kinds, strict=True)]
        for kinds in ([o.allowed for o in outcomes], [o.unlisted for o in outcomes])
    ]
    return [
        sum(1 for r in results if r.expected) if rest else len(outcomes),
        sum(r.expected for r in results),
        sum(r.found for r in results),
        sum(r.allowed_extra for r in results),
        sum(r.compared for r in results),
        sum(r.equal for r in results),
        *map(sum, own),
    ]


def table(outcomes: list[Outcome]) -> str:
    """Figures by protocol."""
    rows = []
    for title, rest in (("flow records", False), ("options data and counters", True)):
        rows.append([title, *COLUMNS])
        for protocol in sorted({o.case.protocol for o in outcomes}):
            mine = [o for o in outcomes if o.case.protocol == protocol]
            if any(figures(mine, rest)[1:]) or not rest:
                rows.append([f"  {protocol}", *map(str, figures(mine, rest))])
        rows.append(["  all", *map(str, figures(outcomes, rest))])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        row[0].ljust(widths[0])
        + "".join(f"  {c.rjust(w)}" for c, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def main() -> int:
    """Run all captures."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=default_directory())
    parser.add_argument("--details", type=int, default=5, help="deviations shown per capture")
    parser.add_argument("--only", default="", help="captures whose name contains this")
    options = parser.parse_args()
    found = [c for c in cases(options.directory) if options.only in c.name]
    if not found:
        print(f"no captures in {options.directory / 'pcaps'}: give a corpus or set TANDEM_CORPUS")
        return 2
    known = listed()
    outcomes = [run(case, known) for case in found]
    for outcome in outcomes:
        if outcome.failure:
            print(f"{outcome.case.name}: FAILED: {outcome.failure}")
        shown = outcome.unlisted[: options.details]
        for deviation in shown:
            print(f"{outcome.case.name}: {deviation}")
        if len(outcome.unlisted) > len(shown):
            print(f"{outcome.case.name}: … and {len(outcome.unlisted) - len(shown)} more")
    print(table(outcomes))
    equal = sum(o.flows.equal for o in outcomes)
    compared = sum(o.flows.compared for o in outcomes)
    print(f"{100 * equal / max(compared, 1):.4f} % of the fields of flow records are equal")
    for entry in known:
        state = f"met {entry.met} times" if entry.met else "not met"
        print(f"listed: {entry.capture} {entry.field}: {entry.reason} ({state})")
    bad = [o for o in outcomes if not o.passed]
    print("all as expected" if not bad else f"{len(bad)} captures deviate")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
