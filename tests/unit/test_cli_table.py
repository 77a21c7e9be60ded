"""Tables in terminals of any width."""

from __future__ import annotations

from appliance.cli.table import cells, layout

TITLES = ["exporter", "received (UTC)", "flow records"]
ROWS = [["198.51.100.22", "2026-01-02 03:04:05", "1,820"], ["::1", "-", "7"]]
RIGHT = [False, False, True]


def lines(width: int | None) -> list[str]:
    head, body = layout(TITLES, ROWS, RIGHT, width)
    return [*head, *body]


def test_a_table_takes_the_width_that_it_needs_where_it_has_it():
    assert lines(None) == lines(200) == [
        "exporter       received (UTC)       flow records",
        "198.51.100.22  2026-01-02 03:04:05         1,820",
        "::1            -                               7",
    ]  # fmt: skip


def test_titles_are_wrapped_before_values():
    assert lines(43) == [
        "exporter       received (UTC)          flow",
        "                                    records",
        "198.51.100.22  2026-01-02 03:04:05    1,820",
        "::1            -                          7",
    ]


def test_values_are_wrapped_between_words_only():
    assert lines(34) == [
        "exporter       received       flow",
        "               (UTC)       records",
        "198.51.100.22  2026-01-02    1,820",
        "               03:04:05",
        "::1            -                 7",
    ]


def test_rows_that_fit_in_no_way_become_blocks_and_no_value_is_torn():
    assert lines(20) == [
        "exporter        198.51.100.22",
        "received (UTC)  2026-01-02 03:04:05",
        "flow records    1,820",
        "",
        "exporter        ::1",
        "received (UTC)  -",
        "flow records    7",
    ]


def test_no_line_of_a_table_is_wider_than_the_terminal():
    for width in range(34, 60):
        found = lines(width)
        assert max(map(len, found)) <= width, width
        assert "198.51.100.22" in "\n".join(found)


def test_a_table_without_rows_has_titles():
    head, body = layout(["a", "b"], [], [False, False], 80)
    assert (head, list(body)) == (["a  b"], [])


def test_wide_and_combining_characters_are_measured():
    assert cells("日本") == 4
    assert cells("e\u0301") == 1
    head, body = layout(["x", "y"], [["日本", "1"]], [False, False], None)
    assert [*head, *body] == ["x     y", "日本  1"]
