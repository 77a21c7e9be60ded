"""Coverage-guided fuzzing of the decoders with atheris: no exception, hang or growth of memory.

One million inputs, which takes a quarter of an hour and more (``make fuzz`` does this):

    python -m tests.fuzz --runs 1000000 --corpus var/fuzz/corpus

Inputs that reach new code are kept in the corpus, where the next run begins. A finding ends the run
with a traceback; its input is written beside the corpus, and ``python -m tests.fuzz FILE`` runs it
alone. Further arguments go to libFuzzer.

The fuzzing itself is done by one process after the other, because atheris 3.0 loses some 6 KiB with
each input that it traces, whatever the target does; the memory of the decoder is watched in this
process, which is not traced and runs the corpus after each of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

SEGMENT = 100_000
"""Inputs of one process."""
REPORTED = 1000
"""Inputs between two notes of progress."""
FIGURES = ("runs", "datagrams", "records")


def main() -> int:
    """Fuzz, or run the inputs given."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="*", type=Path, help="run these inputs only")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs (default: a million)")
    parser.add_argument("--seconds", type=int, default=0, help="end after so long")
    parser.add_argument("--corpus", type=Path, default=Path("var/fuzz/corpus"), help="kept inputs")
    parser.add_argument("--traced", action="store_true", help=argparse.SUPPRESS)
    options, further = parser.parse_known_args()
    if options.traced:
        return traced(options, further)
    from tests.fuzz.target import Target, seeds

    if options.inputs:
        target = Target()
        for path in options.inputs:
            target(path.read_bytes())
            print(f"{path}: survived")
        return 0
    options.corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (options.corpus / f"seed-{number:02d}").write_bytes(seed)
    return segments(options, further)


def figures_of(options: argparse.Namespace) -> Path:
    """Where a fuzzing process notes its figures."""
    return options.corpus.with_name("figures.json")


def segments(options: argparse.Namespace, further: list[str]) -> int:
    """Fuzz by one process after the other until the runs or the seconds are used up."""
    from tests.fuzz.target import Watch

    total = dict.fromkeys(FIGURES, 0)
    slowest_s, growth = 0.0, 0
    began = time.perf_counter()
    watch = Watch()
    while total["runs"] < options.runs:
        left = options.seconds - (time.perf_counter() - began) if options.seconds else 0
        if left < 0:
            break
        runs = min(SEGMENT, options.runs - total["runs"])
        command = [sys.executable, "-m", "tests.fuzz", "--traced", "--runs", str(runs)]
        command += ["--seconds", str(int(left) + 1 if options.seconds else 0)]
        command += ["--corpus", str(options.corpus), *further]
        figures_of(options).unlink(missing_ok=True)
        done = subprocess.run(command, check=False)
        if figures_of(options).exists():
            figures = json.loads(figures_of(options).read_text())
            for name in FIGURES:
                total[name] += figures[name]
            slowest_s = max(slowest_s, figures["slowest_s"])
        if done.returncode:
            print(f"a finding: the input is {options.corpus.parent}/crash-… (or timeout-, oom-)")
            return 1
        if not figures_of(options).exists():
            print("the fuzzing process ended without a single note of progress: is it killed?")
            return 1
        growth = watch.run(options.corpus)
        print(
            f"{total['runs']} inputs, {total['datagrams']} datagrams, {total['records']} flow "
            f"records in {time.perf_counter() - began:.0f} s; slowest input "
            f"{slowest_s * 1000:.0f} ms; {len(list(options.corpus.iterdir()))} inputs kept; "
            f"{growth >> 20} MiB grown",
            flush=True,
        )
    return 0


def traced(options: argparse.Namespace, further: list[str]) -> int:
    """One process under atheris; libFuzzer ends it, without a word to Python."""
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: `make setup` installs it where there is a build of it")
        return 2
    with atheris.instrument_imports(include=["appliance.decode"]):
        from tests.fuzz.target import Target

        target = Target()

    def run(data: bytes) -> None:
        target(data)
        if target.runs % REPORTED == 0 or target.runs == options.runs:
            figures = {name: getattr(target, name) for name in (*FIGURES, "slowest_s")}
            figures_of(options).write_text(json.dumps(figures))

    arguments = [
        sys.argv[0],
        f"-runs={options.runs}",
        f"-max_total_time={options.seconds}",
        "-timeout=10",
        "-rss_limit_mb=4096",
        "-max_len=4096",
        "-len_control=20",
        "-use_value_profile=1",
        "-verbosity=0",
        f"-artifact_prefix={options.corpus.parent}/",
        *further,
        str(options.corpus),
    ]
    atheris.Setup(arguments, run)
    atheris.Fuzz()
    return 0
