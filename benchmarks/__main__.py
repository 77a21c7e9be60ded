"""``python -m benchmarks``: Tandem and other collectors, measured in one run on one machine."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks import compare, query, receive, scale, stages
from benchmarks.process import CollectorError, machine
from benchmarks.report import Table, parse_count

SECTIONS = ("v9", "v5", "ipfix", "sflow", "receive", "stages", "scale", "query")
PACKAGES = {"nfcapd": "nfdump", "sfcapd": "nfdump-sflow", "nfacctd": "pmacct"}
STAGE_DATAGRAMS = 8192
INSTALL_SECONDS = 300


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="small runs, about two minutes")
    parser.add_argument("--datagrams", type=parse_count, help="of a run (default 200k)")
    parser.add_argument("--flows", type=parse_count, help="for the query (default 50M)")
    parser.add_argument("--exporters", type=parse_count, help="of the many (default 5000)")
    parser.add_argument("--rounds", type=parse_count, help="of each comparison (default 3)")
    parser.add_argument("--rate", type=parse_count, default=30_000, help="datagrams/s at most")
    parser.add_argument("--output", type=Path, help="write the tables as Markdown, too")
    chosen = parser.parse_args()
    unknown = [s for s in chosen.sections if s not in SECTIONS]
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    chosen.sections = chosen.sections or list(SECTIONS)
    chosen.datagrams = chosen.datagrams or (25_000 if chosen.quick else 200_000)
    chosen.rounds = chosen.rounds or (1 if chosen.quick else 3)
    chosen.flows = chosen.flows or (1_000_000 if chosen.quick else 50_000_000)
    chosen.exporters = chosen.exporters or (1_000 if chosen.quick else 5_000)
    return chosen


def install() -> None:
    """Install the other collectors as root, or name what is missing."""
    missing = sorted({package for name, package in PACKAGES.items() if not shutil.which(name)})
    if not missing:
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        subprocess.run(command, timeout=INSTALL_SECONDS, stdout=subprocess.DEVNULL, check=False)
    else:
        print(f"not installed, so not compared: {' '.join(missing)} (apt-get install)\n")


def measure(section: str, chosen: argparse.Namespace) -> Iterable[Table]:
    datagrams, rate = chosen.datagrams, chosen.rate
    if section == "receive":
        return [receive.measure(datagrams, rate, chosen.rounds)]
    if section == "stages":
        return [stages.measure(STAGE_DATAGRAMS)]
    if section == "scale":
        return [scale.measure(chosen.exporters, datagrams, rate)]
    if section == "query":
        return query.measure(chosen.flows, 2 * rate)
    return [compare.compare(section, datagrams, rate, chosen.rounds)]


def main() -> int:
    chosen = arguments()
    install()
    heading = f"{machine()}; {time.strftime('%Y-%m-%d')}"
    print(heading + "\n")
    pages = ["# Benchmarks\n", f"{heading}\n", f"`python -m benchmarks {' '.join(sys.argv[1:])}`\n"]
    failed = 0
    for section in chosen.sections:
        try:
            tables = measure(section, chosen)
        except CollectorError as error:
            print(f"{section}: {error}\n", file=sys.stderr)
            failed += 1
            continue
        for table in tables:
            print(table.text(), flush=True)
            pages.append(table.markdown())
    if chosen.output:
        chosen.output.write_text("\n".join(pages))
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
