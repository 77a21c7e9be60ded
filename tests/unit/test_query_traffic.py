"""Top talkers and series: exact figures, scaled by known sampling rates only."""

from __future__ import annotations

import json

import numpy as np
import pytest

from appliance.query.engine import Engine, QueryError, Window
from appliance.query.exporters import exporters
from appliance.query.interfaces import interfaces
from appliance.query.search import flows
from appliance.query.traffic import nice_step, series, top
from appliance.schema import DRILL_DOMAINS
from tests.unit.query_samples import SECOND, T0, pack, record, rows, store

MINUTE = Window(T0, T0 + 60 * SECOND)


@pytest.fixture
def engine(tmp_path):
    """Packed and hot records of one minute: a known rate of 1000, a rate of 1, and unknown ones."""
    packed = rows(
        [
            record(0, src_addr="10.0.0.1", dst_port=443, bytes=100, packets=1, sampling_rate=1000),
            record(1, src_addr="10.0.0.2", dst_port=443, bytes=5000, packets=50),
            record(2, src_addr="2001:db8::1", dst_port=53, bytes=10, packets=1),
        ]
    )
    hot = rows(
        [
            record(30, src_addr="10.0.0.1", bytes=7, packets=7, sampling_rate=None,
                   sampling_source=0),
            # a rate without a source is not known either
            record(31, src_addr="10.0.1.9", bytes=9, packets=3, sampling_rate=64,
                   sampling_source=0),
        ]
    )  # fmt: skip
    store(tmp_path, packed, hot)
    pack(tmp_path, packed, 0, 0)
    with Engine(tmp_path) as engine:
        yield engine


def test_counters_are_scaled_where_the_rate_is_known_and_the_rest_is_stated(engine):
    found = top(engine, ["src"], window=MINUTE)
    assert [
        (r["src_addr"], r["bytes"], r["packets"], r["flows"], r["unknown"])
        for r in found.table.to_pylist()
    ] == [
        ("10.0.0.1", 100 * 1000 + 7, 1 * 1000 + 7, 2, 1),
        ("10.0.0.2", 5000, 50, 1, 0),
        ("2001:db8::1", 10, 1, 1, 0),
        ("10.0.1.9", 9, 3, 1, 1),
    ]
    assert found.total == {"bytes": 105_026, "packets": 1061, "flows": 5, "unknown": 2}
    assert found.unknown_share == pytest.approx(0.4)


def test_counters_as_sent_are_not_scaled(engine):
    found = top(engine, ["src"], window=MINUTE, scaled=False, limit=1)
    assert found.table["src_addr"].to_pylist() == ["10.0.0.2"]
    assert found.total["bytes"] == 100 + 5000 + 10 + 7 + 9


def test_rates_and_shares_are_of_the_whole_window_and_the_whole_selection(engine):
    row = top(engine, ["src"], window=MINUTE, limit=1).table.to_pylist()[0]
    assert row["bps"] == pytest.approx(100_007 * 8 / 60)
    assert row["pps"] == pytest.approx(1007 / 60)
    assert row["share"] == pytest.approx(100_007 / 105_026)


def test_rates_do_not_count_the_time_before_anything_was_stored(engine):
    hour = Window(T0 - 3540 * SECOND, T0 + 60 * SECOND)
    found = top(engine, ["src"], window=hour, limit=1)
    assert found.table["bps"].to_pylist() == [pytest.approx(100_007 * 8 / 60)]
    assert (found.since_ns, found.until_ns) == (T0, T0 + 60 * SECOND)
    before = Window(T0 - 120 * SECOND, T0 - 60 * SECOND)
    assert top(engine, ["src"], window=before).since_ns == T0 - 120 * SECOND


def test_groups_can_be_networks_of_both_families(engine):
    found = top(engine, ["src/24/32"], window=MINUTE, metric="flows")
    by = {r["src_addr/24"]: r["flows"] for r in found.table.to_pylist()}
    assert by == {"10.0.0.0/24": 3, "10.0.1.0/24": 1, "2001:db8::/32": 1}
    assert top(engine, ["src/0"], window=MINUTE).table["src_addr/0"].to_pylist() == [
        "0.0.0.0/0",
        "2001:db8::/64",
    ]


def test_several_columns_group_together_and_absent_values_are_a_group(engine):
    found = top(engine, ["exporter,dst_port"], window=MINUTE, metric="flows")
    assert [(r["dst_port"], r["flows"]) for r in found.table.to_pylist()] == [
        (443, 2),
        (None, 2),
        (53, 1),
    ]


def test_a_filter_and_a_window_select_rows(engine):
    found = top(engine, ["src"], filter="net 10.0.0.0/8 and not port 443", window=MINUTE)
    assert found.total["flows"] == 2
    found = top(engine, ["src"], window=Window(T0 + 2 * SECOND, T0 + 30 * SECOND))
    assert found.total["flows"] == 1


def test_a_column_that_no_file_has_is_null_and_not_an_error(engine):
    found = top(engine, ["rev_bytes"], filter="not inner net 10.0.0.0/8", window=MINUTE)
    assert found.table["rev_bytes"].to_pylist() == [None]
    assert top(engine, ["src"], filter="rev_bytes > 0", window=MINUTE).table.num_rows == 0


def test_nothing_selected_gives_no_rows_and_totals_of_zero(engine):
    found = top(engine, ["src"], filter="port 9", window=MINUTE)
    assert found.table.num_rows == 0
    assert set(found.total.values()) == {0}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"by": ["nonsense"]}, "no column is called 'nonsense'"),
        ({"by": ["dst_port/8"]}, "not an address"),
        ({"by": ["src/99"]}, "at most 32"),
        ({"by": ["src,src_addr"]}, "named twice"),
        ({"by": ["src; drop table flows"]}, "no column to group by"),
        ({"by": ["src"], "metric": "money"}, "no metric"),
        ({"by": ["src"], "limit": 0}, "from 1 to"),
        ({"by": []}, "nothing to group by"),
        ({"by": ["bytes"]}, "not what to group by"),
        ({"by": ["src,packets"]}, "not what to group by"),
    ],
)
def test_wrong_questions_are_answered_with_what_is_wrong(engine, options, says):
    with pytest.raises(QueryError, match=says):
        top(engine, window=MINUTE, **options)


def test_discard_samples_are_no_traffic_unless_they_are_asked_for(tmp_path):
    made = [
        record(0, src_addr="10.0.0.1", bytes=100, packets=1, kind=1),
        record(1, src_addr="10.0.0.1", bytes=100, packets=1, kind=2),
        record(2, src_addr="10.0.0.1", bytes=100, packets=1),
    ]
    with Engine(store(tmp_path, rows(made))) as engine:
        assert top(engine, ["src"], window=MINUTE).total["flows"] == 2
        assert top(engine, ["src"], filter="kind = 2", window=MINUTE).total["flows"] == 1


def test_absurd_counters_do_not_overflow(tmp_path):
    huge = record(0, src_addr="10.0.0.1", bytes=2**64 - 1, packets=2**64 - 1,
                  sampling_rate=2**32 - 1)  # fmt: skip
    with Engine(store(tmp_path, rows([huge, huge]))) as engine:
        assert top(engine, ["src"], window=MINUTE).table["bytes"].to_pylist() == [2**64 - 1]
        assert series(engine, window=MINUTE).table["bytes"].to_pylist() == [2**64 - 1]


def test_top_agrees_with_a_naive_sum_on_random_rows(tmp_path):
    rng = np.random.default_rng(5)
    made = [
        record(
            int(rng.integers(0, 60)),
            src_addr=f"10.0.0.{rng.integers(0, 5)}",
            bytes=int(rng.integers(0, 10**9)),
            packets=int(rng.integers(0, 1000)),
            sampling_rate=[None, 0, 1, 100][rng.integers(0, 4)],
            sampling_source=[None, 0, 1, 2][rng.integers(0, 4)],
        )
        for _ in range(500)
    ]
    expected: dict[str, int] = {}
    for r in made:
        known = (r["sampling_rate"] or 0) > 0 and (r["sampling_source"] or 0) > 0
        size = r["bytes"] * (r["sampling_rate"] if known else 1)
        expected[r["src_addr"]] = expected.get(r["src_addr"], 0) + size
    with Engine(store(tmp_path, rows(made[:200]), rows(made[200:]))) as engine:
        table = top(engine, ["src"], window=MINUTE).table
    assert dict(zip(table["src_addr"].to_pylist(), table["bytes"].to_pylist(), strict=True)) == (
        expected
    )


def test_series_sums_by_bucket(engine):
    found = series(engine, window=MINUTE, step_ns=30 * SECOND)
    assert [
        ((r["time_ns"] - T0) // SECOND, r["bytes"], r["flows"], r["unknown"])
        for r in found.table.to_pylist()
    ] == [(0, 105_010, 3, 0), (30, 16, 2, 2)]
    assert found.table["bps"].to_pylist()[0] == pytest.approx(105_010 * 8 / 30)


def test_series_shows_the_largest_groups_and_the_sum_of_the_rest(engine):
    found = series(engine, ["src"], window=MINUTE, step_ns=60 * SECOND, limit=2)
    assert [(r["src_addr"], r["other"], r["bytes"]) for r in found.table.to_pylist()] == [
        ("10.0.0.1", False, 100_007),
        ("10.0.0.2", False, 5000),
        (None, True, 19),
    ]
    assert found.total["bytes"] == 105_026


def test_a_group_without_a_value_is_not_taken_for_the_rest(engine):
    found = series(engine, ["dst_port"], window=MINUTE, step_ns=60 * SECOND, limit=2,
                   metric="flows")  # fmt: skip
    assert [(r["dst_port"], r["other"], r["flows"]) for r in found.table.to_pylist()] == [
        (443, False, 2),
        (None, False, 2),
        (None, True, 1),
    ]


def test_too_many_buckets_are_refused(engine):
    with pytest.raises(QueryError, match="use a longer step"):
        series(engine, window=MINUTE, step_ns=1)


def test_steps_are_customary_and_at_most_so_many():
    for seconds in (1, 59, 120, 3600, 86400, 31 * 86400, 400 * 86400):
        step = nice_step(seconds * SECOND)
        assert seconds * SECOND / step <= 120
    assert nice_step(3600 * SECOND) == 30 * SECOND


def test_results_are_plain_values(engine):
    assert json.dumps(top(engine, ["src"], window=MINUTE).table.to_pylist())


def test_flow_records_of_drills_are_in_no_answer_but_to_who_asks_for_their_domain(tmp_path):
    drill = {"observation_domain": DRILL_DOMAINS[0], "src_addr": "10.0.0.9"}
    table = rows(
        [
            record(0, src_addr="10.0.0.1", observation_domain=7, bytes=10, in_if=1),
            record(1, src_addr="10.0.0.2", bytes=20, in_if=1),
            record(2, bytes=400, in_if=1, **drill),
        ]
    )
    store(tmp_path, table)
    with Engine(tmp_path) as engine:
        assert top(engine, ["src"], window=MINUTE).total["bytes"] == 30
        assert series(engine, window=MINUTE).total["bytes"] == 30
        assert interfaces(engine, window=MINUTE).total["bytes"] == 30
        assert exporters(engine, window=MINUTE).total["bytes"] == 30
        assert flows(engine, window=MINUTE).table.num_rows == 2
        asked = top(engine, ["src"], window=MINUTE, filter=f"domain {DRILL_DOMAINS[0]}")
        assert asked.total["bytes"] == 400
