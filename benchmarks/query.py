"""Millions of stored flows: bytes on disk, and the ten busiest source addresses."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from appliance.store.files import snapshot
from appliance.store.maintenance import load_state
from benchmarks.collectors import NFDUMP_SECONDS, Contender, Nfcapd, Tandem
from benchmarks.compare import EXPORTERS, blocks, run, working_directory
from benchmarks.generate import RECORDS, Generator
from benchmarks.report import Table, count, ratio

PACK = """
import sys, time
from pathlib import Path
from appliance.config import Config
from appliance.store.maintenance import PACK_AFTER_NS, Pass, State, policy
store = Path(sys.argv[1])
Pass(store, policy(Config()), time.time_ns() + 2 * PACK_AFTER_NS, State()).run()
"""
LIMIT = 10


def measure(flows: int, rate: float) -> tuple[Table, Table]:
    """The table of sizes, and that of query times, for both collectors."""
    sizes = Table(
        f"On disk, {count(flows)} NetFlow v9 flows", ["store", "bytes/flow", "ratio", "CPU µs/flow"]
    )
    times = Table(f"Top {LIMIT} source addresses", ["store", "seconds", "CPU s", "ratio", "flows"])
    answers: list[list[int]] = []
    theirs_size = theirs_time = 0.0
    contenders: list[Contender] = [Tandem()]
    if missing := Nfcapd().missing("v9"):
        sizes.notes.append(f"without {missing}: not installed")
    else:
        contenders.insert(0, Nfcapd())
    for contender in contenders:
        with working_directory() as directory:
            generator = Generator("v9", EXPORTERS)
            loads = blocks(generator, flows // RECORDS["v9"])
            outcome = run(contender, generator, loads, rate, directory)
            size = outcome.stored_bytes / max(outcome.stored, 1)
            row = [f"{size:.1f}", ratio(size, theirs_size)]
            if isinstance(contender, Nfcapd):
                theirs_size = size
                sizes.rows.append(["nfcapd, LZO", row[0], "1.00", f"{outcome.microseconds:.3f}"])
                command = ["nfdump", "-R", str(directory), "-s", "srcip/bytes", "-n", str(LIMIT)]
                said, theirs_time, cpu = timed([*command, "-o", "csv"])
                answers.append(nfdump_bytes(said))
                times.rows.append(
                    ["nfdump", f"{theirs_time:.2f}", f"{cpu:.2f}", "1.00", count(outcome.stored)]
                )
                continue
            store = directory / "data" / "store"
            # some was compacted while it was collected; its CPU time belongs to compaction
            packing = load_state(store).cpu_seconds
            cost = (outcome.cpu_seconds - packing) / max(outcome.stored, 1) * 1e6
            sizes.rows.append(["tandem, as collected", *row, f"{cost:.3f}"])
            for state in ("as collected", "compacted"):
                if state == "compacted":
                    packing += timed([sys.executable, "-c", PACK, str(store)])[2]
                    cost = packing / max(outcome.stored, 1) * 1e6
                    size = packed(store)
                    cells = [f"{size:.1f}", ratio(size, theirs_size), f"+ {cost:.3f}"]
                    sizes.rows.append(["tandem, compacted", *cells])
                command = [sys.executable, "-m", "appliance.cli", "top", "--last", "all"]
                command += ["--data-dir", str(directory / "data"), "-n", str(LIMIT), "--json"]
                said, seconds, cpu = timed(command)
                answers.append([json.loads(line)["bytes"] for line in said.splitlines()])
                cells = [f"{seconds:.2f}", f"{cpu:.2f}", ratio(seconds, theirs_time)]
                times.rows.append([f"tandem, {state}", *cells, count(outcome.stored)])
    sizes.notes.append(
        "ratio to nfcapd; compaction, with roll-ups, has its own CPU time, in the background"
    )
    agree = all(a == answers[0] for a in answers)
    times.notes.append(
        f"whole commands, files in the page cache; the answers {'agree' if agree else 'differ'}"
    )
    return sizes, times


def timed(command: list[str]) -> tuple[str, float, float]:
    """What ``command`` prints, its seconds, and its CPU seconds."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=NFDUMP_SECONDS, check=False
    )
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, seconds, cpu


def nfdump_bytes(said: str) -> list[int]:
    """The bytes column of nfdump's CSV of a statistic."""
    lines = [line.split(",") for line in said.splitlines() if line.count(",") > 5]
    column = next(i for i, name in enumerate(lines[0]) if name in ("ibyt", "byt", "bytes"))
    return [int(line[column]) for line in lines[1 : LIMIT + 1]]


def packed(store: Path) -> float:
    """Bytes a row of the packed files."""
    files = [f for f in snapshot(store / "flows") if f.path.suffix == ".parquet"]
    return sum(f.size for f in files) / max(sum(f.rows for f in files), 1)
