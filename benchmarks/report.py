"""Figures as tables, for a terminal and as Markdown."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class Table:
    """One subject: a head, rows of texts, and notes."""

    title: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For a terminal: first column to the left, figures to the right."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.head))]
        out = [self.title]
        for line in lines:
            cells = [line[0].ljust(widths[0])]
            cells += [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)]
            out.append("  " + "  ".join(cells).rstrip())
        return "\n".join([*out, *(f"  {note}" for note in self.notes)]) + "\n"

    def markdown(self) -> str:
        """The same as Markdown."""
        rule = ["---"] + ["---:"] * (len(self.head) - 1)
        lines = [f"| {' | '.join(line)} |" for line in (self.head, rule, *self.rows)]
        notes = [f"\n{note}" for note in self.notes]
        return "\n".join([f"## {self.title}\n", *lines, *notes]) + "\n"


def count(number: float) -> str:
    """A number with a space between thousands."""
    return f"{number:,.0f}".replace(",", " ")


def ratio(ours: float, theirs: float) -> str:
    """``ours / theirs``, or a dash."""
    return f"{ours / theirs:.2f}" if math.isfinite(ours) and theirs > 0 else "–"


def parse_count(text: str) -> int:
    """``5M``, ``200k`` or digits.

    >>> parse_count("5M"), parse_count("1.5k"), parse_count("7")
    (5000000, 1500, 7)
    """
    factor = {"k": 1000, "M": 1000_000}.get(text[-1:], 1)
    number = float(text[:-1] if factor > 1 else text)
    if not number > 0:
        raise ValueError(f"{text!r} is not above zero")
    return int(number * factor)
