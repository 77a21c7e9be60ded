"""A corpus on disk: ``pcaps/PROTO/NAME.pcap``, ``golden/PROTO__NAME.jsonl.gz``, manifest optional.

``golden`` has a flow record a line; ``golden_options`` (optional) options data and sFlow counters.
Files may also lie directly in ``pcaps``; the JSON may be uncompressed.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]

REPOSITORY = Path(__file__).resolve().parents[2]
SUFFIXES = (".pcap", ".pcapng", ".pcap.gz", ".pcapng.gz")


def default_directory() -> Path:
    """``TANDEM_CORPUS``, or the corpus beside the repository."""
    given = os.environ.get("TANDEM_CORPUS")
    return Path(given) if given else REPOSITORY.parent / "shared" / "corpus"


@dataclass(frozen=True)
class Case:
    """One capture with what is expected of it."""

    name: str
    protocol: str
    capture: Path
    golden: Path | None
    golden_options: Path | None


def cases(directory: Path) -> list[Case]:
    """All captures of a corpus, by name."""
    root = directory / "pcaps"
    found = []
    for path in sorted(root.rglob("*")):
        suffix = next((s for s in sorted(SUFFIXES, key=len)[::-1] if path.name.endswith(s)), None)
        if suffix is None or not path.is_file():
            continue
        parts = [*path.relative_to(root).parts[:-1], path.name.removesuffix(suffix)]
        name = "__".join(parts)
        found.append(
            Case(
                name,
                name.split("__")[0],
                path,
                _json_file(directory / "golden", name),
                _json_file(directory / "golden_options", name),
            )
        )
    return found


def _json_file(directory: Path, name: str) -> Path | None:
    for suffix in (".jsonl.gz", ".jsonl"):
        path = directory / (name + suffix)
        if path.exists():
            return path
    return None


def read(path: Path | None) -> dict[int, list[Record]]:
    """The records of a golden file, by packet."""
    records: dict[int, list[Record]] = defaultdict(list)
    if path is not None:
        data = path.read_bytes()
        text = gzip.decompress(data) if path.suffix == ".gz" else data
        for line in text.decode().splitlines():
            record = json.loads(line)
            records[record["packet"]].append(record)
    return records
