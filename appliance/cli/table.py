"""Tables as lines of text: cells are never torn, however narrow the terminal is.

A table that is too wide gets narrower titles, then cells of several words on several lines. Where
that is not enough, each row becomes a block with a line for each column.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

GAP = "  "


def layout(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[bool],
    width: int | None,
) -> tuple[list[str], Iterator[str]]:
    """The lines of the titles, and those of ``rows``.

    ``right``: of each column, whether it is aligned there. ``width``: columns of the terminal;
    None: as many as it takes, and each row is one line.
    """
    columns = [[row[i] for row in rows] for i in range(len(titles))]
    widths = _widths(titles, columns, width)
    if widths is None:
        return [], _blocks(titles, rows)
    return list(_lines(titles, widths, right)), (
        line for row in rows for line in _lines(row, widths, right)
    )


def cells(text: str) -> int:
    """How many columns of a terminal ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _widths(
    titles: Sequence[str], columns: Sequence[Sequence[str]], width: int | None
) -> list[int] | None:
    """The width of each column; None where no widths fit."""
    title = [cells(t) for t in titles]
    value = [max(map(cells, column), default=0) for column in columns]
    found = [max(pair) for pair in zip(title, value, strict=True)]
    if width is None:
        return found
    room = width - len(GAP) * (len(titles) - 1)
    if sum(found) <= room:
        return found
    title = [_longest(t) for t in titles]
    words = [max(map(_longest, column), default=0) for column in columns]
    for least in (value, words):
        floor = [max(pair) for pair in zip(title, least, strict=True)]
        found = [max(low, min(now, room)) for low, now in zip(floor, found, strict=True)]
        while sum(found) > room and found != floor:
            # the widest that can give way does
            _, i = max((now, i) for i, now in enumerate(found) if now > floor[i])
            found[i] -= 1
        if sum(found) <= room:
            return found
    return None


def _longest(text: str) -> int:
    return max(map(cells, text.split()), default=0)


def _lines(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> Iterator[str]:
    parts = [_wrap(text, width) for text, width in zip(row, widths, strict=True)]
    for n in range(max(map(len, parts), default=0)):
        yield GAP.join(
            _padded(part[n] if n < len(part) else "", width, at_right)
            for part, width, at_right in zip(parts, widths, right, strict=True)
        ).rstrip()


def _wrap(text: str, width: int) -> list[str]:
    """``text`` on lines of at most ``width``, broken between words."""
    if cells(text) <= width:
        return [text]
    lines: list[str] = []
    for word in text.split():
        if lines and cells(lines[-1]) + 1 + cells(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def _padded(text: str, width: int, at_right: bool) -> str:
    blank = " " * (width - cells(text))
    return blank + text if at_right else text + blank


def _blocks(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widest = max(map(cells, titles))
    for number, row in enumerate(rows):
        if number:
            yield ""
        for title, text in zip(titles, row, strict=True):
            yield _padded(title, widest, False) + GAP + text
