"""Metrics as Prometheus text (exposition format 0.0.4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "tandem_"


@dataclass(slots=True)
class Metric:
    """A family of time series: a name in base units, what it means, and a value for each labelling.

    Counters end in ``_total``; help texts are for operators, not for who wrote the program.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)

    def add(self, value: float, **labels: object) -> None:
        """One more time series."""
        self.samples.append(({name: str(text) for name, text in labels.items()}, value))

    def lines(self) -> Iterable[str]:
        """The lines of the format; none where there is no series."""
        if not self.samples:
            return
        name = PREFIX + self.name
        yield f"# HELP {name} {_escape(self.help)}"
        yield f"# TYPE {name} {self.kind}"
        for labels, value in self.samples:
            yield f"{name}{_labels(labels)} {_number(value)}"


def render(metrics: Iterable[Metric]) -> str:
    """The whole document."""
    return "".join(f"{line}\n" for metric in metrics for line in metric.lines())


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    inside = ",".join(
        f'{name}="{_escape(text).replace(chr(34), chr(92) + chr(34))}"'
        for name, text in labels.items()
    )
    return "{" + inside + "}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(int(value))  # a bool is a number, too
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
