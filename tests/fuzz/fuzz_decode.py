"""Coverage-guided fuzzing of the decoders with atheris: no exception, hang or growth of memory.

One million inputs, with a corpus kept in a directory (``make fuzz`` does this):

    python -m tests.fuzz --runs 1000000 --corpus var/fuzz

A finding ends the run with the traceback; the input is written to ``crash-…``, and
``python -m tests.fuzz crash-…`` runs it alone. Any further argument goes to libFuzzer.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

REPORTED = 1000
"""Inputs between two lines of progress."""


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
    parser.add_argument("--corpus", type=Path, default=Path("var/fuzz"), help="kept inputs")
    options, further = parser.parse_known_args()
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: `make setup` installs it where there is a build of it")
        return 2
    with atheris.instrument_imports(include=["appliance.decode"]):
        from tests.fuzz.target import Target, seeds

        target = Target()
    if options.inputs:
        for path in options.inputs:
            target(path.read_bytes())
            print(f"{path}: survived")
        return 0
    options.corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (options.corpus / f"seed-{number:02d}").write_bytes(seed)
    arguments = [
        sys.argv[0],
        f"-runs={options.runs}",
        f"-max_total_time={options.seconds}",
        "-print_final_stats=1",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-max_len=4096",
        "-len_control=20",
        "-use_value_profile=1",
        f"-artifact_prefix={options.corpus.parent}/",
        *further,
        str(options.corpus),
    ]

    began = time.perf_counter()

    def run(data: bytes) -> None:
        target(data)
        # libFuzzer ends the process itself, without a word to Python
        if target.runs % REPORTED == 0 and data:
            seconds = time.perf_counter() - began
            print(
                f"{target.runs} inputs, {target.datagrams} datagrams, {target.records} flow "
                f"records in {seconds:.0f} s; slowest input {target.slowest_s * 1000:.0f} ms; "
                f"{target.growth >> 20} MiB grown",
                file=sys.stderr,
                flush=True,
            )

    atheris.Setup(arguments, run)
    atheris.Fuzz()
    return 0
