"""Times and spans of time as people write them. Times without a zone are UTC."""

from __future__ import annotations

from appliance.query.engine import QueryError, Window
from appliance.query.values import TIME, Span, read_duration

SECOND = 10**9
DAY = 86400 * SECOND
_DIGITS = {10: SECOND, 13: 10**6, 16: 1000, 19: 1}


def read_time(text: str, now_ns: int) -> int:
    """Nanoseconds since the epoch of an ISO time, ``15m`` (that long ago), ``now``, ``today``, or a
    number of seconds, ms, µs or ns since the epoch, told apart by their number of digits.
    """
    word = text.strip().lower().removesuffix(" ago").removeprefix("-")
    if word == "now":
        return now_ns
    if word in ("today", "yesterday"):
        return now_ns - now_ns % DAY - (DAY if word == "yesterday" else 0)
    if word.isdigit() and len(word) in _DIGITS:
        return int(word) * _DIGITS[len(word)]
    if word[-1:].isalpha() and not word.endswith("z"):
        try:
            return now_ns - read_duration(word)
        except ValueError:
            pass
    try:
        value = TIME.read(text.strip())
    except ValueError:
        value = None
    if not isinstance(value, Span) or text.strip().isdigit():
        raise QueryError(
            f"{text!r} is not a time; write one such as 2025-01-31T12:00 (UTC), 15m (ago), "
            "today or yesterday"
        )
    return int(value.low)


def read_span(text: str) -> int:
    """Nanoseconds of ``15m``, ``2h``, ``30s``; QueryError if it is none, or nothing at all."""
    try:
        length = read_duration(text.strip().lower())
    except ValueError as error:
        raise QueryError(f"{text!r} is not {error}") from None
    if length <= 0:
        raise QueryError(f"{text!r} is no time at all; write one such as 15m")
    return length


def window(
    now_ns: int, *, last: str | None = None, since: str | None = None, until: str | None = None
) -> Window:
    """The window of these options; without any, all time. ``last`` counts back from ``until``.

    ``last`` may be ``all``.
    """
    end = read_time(until, now_ns) if until else None
    begin = read_time(since, now_ns) if since else None
    if last and last.strip().lower() != "all":
        if since:
            raise QueryError("both a first time and a length are given: leave one out")
        end = now_ns if end is None else end
        begin = max(end - read_span(last), 0)
    if begin is not None and end is not None and begin >= end:
        raise QueryError("the window ends before it begins")
    return Window(begin, end)
