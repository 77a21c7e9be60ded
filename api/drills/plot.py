"""A drill over time as SVG: what was sent and what each node has of it, and when what happened."""

from __future__ import annotations

from html import escape
from typing import Final

from api.drills.model import Report

_WIDTH, _HEIGHT = 900, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 10, 10, 40
_COLOURS: Final = ("#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
_MARKS: Final = (
    ("detection_ms", "noticed"),
    ("vip_move_ms", "VIP moved"),
    ("first_datagram_ms", "first datagram"),
    ("first_flow_ms", "first flow"),
)


def plot(report: Report) -> str:
    """The figure; nothing where nothing was sent."""
    series = report.series
    # the last step is only a part of one
    steps = len(series.sent) - 1
    if steps < 1:
        return ""
    most = max(max(series.sent), *(max(v, default=0) for v in series.stored.values()), 1)
    across = (_WIDTH - _LEFT - _RIGHT) / steps
    up = (_HEIGHT - _TOP - _BOTTOM) / most
    bottom = _HEIGHT - _BOTTOM

    def x(time_ns: float) -> float:
        return _LEFT + (time_ns - series.begin_ns) / (series.step_ms * 1e6) * across

    def stairs(values: list[int], colour: str, dash: str, width: int) -> str:
        points = " ".join(
            f"{_LEFT + (i + side) * across:.1f},{bottom - value * up:.1f}"
            for i, value in enumerate(values[:steps])
            for side in (0, 1)
        )
        return (
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" '
            f'stroke-dasharray="{dash}"/>'
        )

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="11">',
        f"<title>Datagrams in steps of {series.step_ms} ms, by the time of sending</title>",
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{_WIDTH - _RIGHT}" fill="none" stroke="#888"/>',
        f'<text x="{_LEFT - 5}" y="{_TOP + 10}" text-anchor="end">{most}</text>',
        f'<text x="{_LEFT - 5}" y="{bottom}" text-anchor="end">0</text>',
        stairs(series.sent, "#bbb", "", 4),
    ]
    labels = [("sent", "#bbb")]
    for (node, values), colour in zip(series.stored.items(), _COLOURS * 20, strict=False):
        out.append(stairs(values, colour, "", 2))
        labels.append((f"stored by {node}", colour))
    marks: list[tuple[int, str, str]] = [(report.fault_ns, report.kind, "#d62728")]
    for name, words in _MARKS:
        value = getattr(report, name)
        if value is not None:
            marks.append((report.fault_ns + int(value * 1e6), words, "#555"))
    for row, (at, words, colour) in enumerate(marks):
        out.append(
            f'<path d="M{x(at):.1f} {_TOP}V{bottom}" stroke="{colour}" stroke-dasharray="4 3"/>'
            f'<text x="{x(at) + 3:.1f}" y="{_TOP + 12 + 13 * row}" fill="{colour}">'
            f"{escape(words)}</text>"
        )
    for step in range(0, steps + 1, 10):
        seconds = (series.begin_ns + step * series.step_ms * 1e6 - report.fault_ns) / 1e9
        place = f'x="{_LEFT + step * across:.1f}" y="{bottom + 14}"'
        out.append(f'<text {place} text-anchor="middle">{round(seconds)} s</text>')
    for i, (words, colour) in enumerate(labels):
        place = f'x="{_LEFT + 150 * i}" y="{_HEIGHT - 6}"'
        out.append(f'<text {place} fill="{colour}">■ {escape(words)}</text>')
    return "".join(out) + "</svg>"
