"""Decodes the captures of a corpus as ``tandem decode`` does, and compares."""

from __future__ import annotations

import fnmatch
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from appliance.offline.capture import Capture
from appliance.offline.decode import decode_files
from tests.conformance.compare import Deviation, Result, by_packet, compare
from tests.conformance.corpus import Case, Record, read
from tests.conformance.forward import early
from tests.conformance.options import counter_differences, option_differences

DEVIATIONS = Path(__file__).with_name("deviations.toml")


@dataclass
class Listed:
    """A deviation of ``deviations.toml``, and how often it was met."""

    capture: str
    field: str
    reason: str
    packet: int | None = None
    met: int = 0

    def covers(self, case: Case, deviation: Deviation) -> bool:
        """Whether it is about ``deviation``."""
        return (
            fnmatch.fnmatchcase(case.name, self.capture)
            and deviation.field == self.field
            and self.packet in (None, deviation.packet)
        )


def listed(path: Path = DEVIATIONS) -> list[Listed]:
    """The reviewed deviations."""
    return [Listed(**entry) for entry in tomllib.loads(path.read_text()).get("deviation", [])]


@dataclass
class Outcome:
    """What came of one capture."""

    case: Case
    flows: Result
    rest: Result
    """Options data and counters."""
    allowed: list[Deviation] = field(default_factory=list)
    unlisted: list[Deviation] = field(default_factory=list)
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Nothing is different but what the list says."""
        return not self.unlisted and not self.failure


def run(case: Case, known: list[Listed]) -> Outcome:
    """Decode one capture and compare it with its golden records."""
    records: list[Record] = []
    try:
        for lines in decode_files([case.capture], options=True, counters=True):
            records += map(orjson.loads, lines)
    except Exception as error:  # what ever it is, the other captures go on
        return Outcome(case, Result(), Result(), failure=f"{type(error).__name__}: {error}")
    flows = [r for r in records if "type" not in r]
    options = [r for r in records if r.get("type") == "options"]
    counters = [r for r in records if r.get("type") == "counters"]
    before = early(Capture(case.capture).batches())

    def allowed(record: Record) -> bool:
        where = (
            record["packet"],
            record["exporter"],
            record.get("observation_domain"),
            record.get("template_id"),
        )
        # discard samples are not in the golden records, as tshark does not read them
        return where in before or record.get("kind") == "discard_sample"

    golden_rest = read(case.golden_options)
    outcome = Outcome(
        case,
        compare(read(case.golden), by_packet(flows), allowed=allowed),
        compare(
            {p: [r for r in rows if "fields" in r] for p, rows in golden_rest.items()},
            by_packet(options),
            option_differences,
            allowed,
        ),
    )
    sampled = compare(
        {p: [r for r in rows if "fields" not in r] for p, rows in golden_rest.items()},
        by_packet(counters),
        counter_differences,
    )
    for name, value in vars(sampled).items():
        setattr(outcome.rest, name, getattr(outcome.rest, name) + value)
    for deviation in outcome.flows.deviations + outcome.rest.deviations:
        entry = next((k for k in known if k.covers(case, deviation)), None)
        if entry is None:
            outcome.unlisted.append(deviation)
        else:
            entry.met += 1
            outcome.allowed.append(deviation)
    return outcome
