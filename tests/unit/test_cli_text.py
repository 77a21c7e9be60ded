"""Values as people read them, and times as they write them."""

from __future__ import annotations

import pytest

from appliance.cli.text import ago, moment, plain, short, shown
from appliance.query.engine import QueryError, Window
from appliance.query.times import read_time, window

SECOND = 10**9
NOW = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (999.6, "1.00k"), (1000, "1.00k"), (12_345, "12.3k"),
     (123_456, "123k"), (999_499, "999k"), (999_500, "1.00M"), (9_996, "10.0k"), (0.12345, "0.123"),
     (1.5, "1.5"), (10**30, "1000000Y"), (2**64, "18.4E")],
)  # fmt: skip
def test_numbers_have_three_digits_and_a_letter(value, text):
    assert short(value) == text


def test_times_are_in_utc():
    assert moment(NOW) == "2023-11-14 22:13:20"
    assert moment(NOW + 1_234_567, 3) == "2023-11-14 22:13:20.001"
    assert moment(2**63 - 1).startswith("2262-")
    assert ago(NOW - 90 * SECOND, NOW) == "90 s"
    assert ago(NOW - 7200 * SECOND, NOW) == "2 h"


def test_a_sampling_rate_is_never_shown_without_its_source():
    assert shown("sampling_rate", 100, {"sampling_source": 2}) == "1/100"
    for source in (0, None):
        assert shown("sampling_rate", 100, {"sampling_source": source}) == "unknown"
    assert shown("sampling_rate", None, {"sampling_source": 2}) == "unknown"
    assert shown("sampling_source", 2, {}) == "options"
    assert shown("sampling_source", 99, {}) == "99"


def test_values_without_a_form_of_their_own():
    assert plain(None) == "-"
    assert plain(b"\x00\xff") == "00ff"
    assert plain([1, 2]) == "1 2"
    assert plain([("9.1", "ff")]) == "9.1=ff"


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("now", NOW),
        ("15m", NOW - 900 * SECOND),
        ("-15m", NOW - 900 * SECOND),
        ("2h ago", NOW - 7200 * SECOND),
        ("today", NOW - NOW % (86400 * SECOND)),
        ("yesterday", NOW - NOW % (86400 * SECOND) - 86400 * SECOND),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14 22:13:20", NOW),
        ("2023-11-14T23:13:20+01:00", NOW),
        ("2023-11-14", 1_699_920_000 * SECOND),
        ("1700000000", NOW),
        ("1700000000000", NOW),
        ("1700000000000000000", NOW),
    ],
)
def test_a_time_is_understood(text, ns):
    assert read_time(text, NOW) == ns


@pytest.mark.parametrize("text", ["", "soon", "12", "15x", "2023-13-01", "1e5"])
def test_a_time_that_is_none_is_refused(text):
    with pytest.raises(QueryError, match="not a time"):
        read_time(text, NOW)


def test_windows():
    assert window(NOW) == Window(None, None)
    assert window(NOW, last="all") == Window(None, None)
    assert window(NOW, last="1m") == Window(NOW - 60 * SECOND, NOW)
    assert window(NOW, last="1m", until="1h") == Window(NOW - 3660 * SECOND, NOW - 3600 * SECOND)
    assert window(NOW, last="99999999d") == Window(0, NOW)
    assert window(NOW, since="1h") == Window(NOW - 3600 * SECOND, None)
    for wrong in ({"last": "0s"}, {"last": "-3"}, {"since": "1h", "last": "1h"}):
        with pytest.raises(QueryError):
            window(NOW, **wrong)
