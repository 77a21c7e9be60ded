"""Two reports side by side."""

from __future__ import annotations

from typing import Final

from api.drills.model import Difference, Report

TEXTS: Final = ("kind", "vip", "source", "before", "after")
FIGURES: Final = (
    *("rate", "sent", "stored", "lost", "duplicated", "on_several_nodes", "longest_gap_ms"),
    *("detection_ms", "vip_move_ms", "first_datagram_ms", "first_flow_ms", "restored_ms"),
)


def differences(one: Report, other: Report) -> list[Difference]:
    """All figures of both, the same or not."""
    found = [
        Difference(name=name, one=getattr(one, name), other=getattr(other, name)) for name in TEXTS
    ]
    for name in FIGURES:
        a, b = getattr(one, name), getattr(other, name)
        change = None if a is None or b is None else round(b - a, 3)
        found.append(Difference(name=name, one=a, other=b, change=change))
    return [
        *found,
        Difference(name="passed", one=_word(one.passed), other=_word(other.passed)),
    ]


def _word(passed: bool) -> str:
    return "yes" if passed else "no"
