"""Bandwidth of interfaces and the list of exporters."""

from __future__ import annotations

import pytest

from appliance.query.engine import Engine, QueryError, Window
from appliance.query.exporters import exporters
from appliance.query.interfaces import interfaces
from appliance.store import rollup
from appliance.store.manifest import Range
from tests.unit.query_samples import SECOND, T0, pack, record, rows, store

MINUTE = 60 * SECOND
HOUR = Window(T0, T0 + 3600 * SECOND)


def bits(found, **want):
    for row in found.table.to_pylist():
        if all(row[name] == value for name, value in want.items()):
            return row
    raise AssertionError(f"no row with {want} in {found.table.to_pylist()}")


def of_minutes(sizes, **values):
    """A record a minute with so many bytes, in by interface 1, out by 2."""
    return [record(60 * i, bytes=size, in_if=1, out_if=2, **values)
            for i, size in enumerate(sizes)]  # fmt: skip


def test_the_percentile_is_that_of_the_intervals_by_nearest_rank(tmp_path):
    made = rows(of_minutes(range(1, 61)))
    with Engine(store(tmp_path, made)) as engine:
        row = bits(interfaces(engine, window=HOUR, step_ns=MINUTE), interface=1, way="in")
        # of 60 intervals, three are above the 95th percentile
        assert row["p95_bps"] == pytest.approx(57 * 8 / 60)
        assert row["max_bps"] == pytest.approx(60 * 8 / 60)
        assert row["mean_bps"] == pytest.approx(sum(range(1, 61)) * 8 / 3600)
        row = bits(interfaces(engine, window=HOUR, step_ns=MINUTE, percent=100), way="out")
        assert row["p95_bps"] == row["max_bps"]


def test_intervals_without_flows_count_as_zero(tmp_path):
    with Engine(store(tmp_path, rows(of_minutes([100, 100, 100])))) as engine:
        row = bits(interfaces(engine, window=HOUR, step_ns=MINUTE), way="in")
        assert row["p95_bps"] == 0
        assert row["max_bps"] == pytest.approx(100 * 8 / 60)
        row = bits(interfaces(engine, window=Window(T0, T0 + 40 * MINUTE), step_ns=MINUTE),
                   way="in")  # fmt: skip
        assert row["p95_bps"] == pytest.approx(100 * 8 / 60)


def test_the_time_before_the_first_record_does_not_count(tmp_path):
    with Engine(store(tmp_path, rows(of_minutes([100, 100])))) as engine:
        window = Window(T0 - 3600 * SECOND, T0 + 2 * MINUTE)
        row = bits(interfaces(engine, window=window, step_ns=MINUTE), way="in")
    assert row["p95_bps"] == pytest.approx(100 * 8 / 60)


def test_counters_are_scaled_and_unknown_rates_are_stated(tmp_path):
    made = of_minutes([10], sampling_rate=100) + of_minutes([7], sampling_source=0)
    with Engine(store(tmp_path, rows(made))) as engine:
        found = interfaces(engine, window=HOUR)
        assert bits(found, way="in")["bytes"] == 1007
        assert found.total == {"bytes": 1007, "flows": 2, "unknown": 1}
        assert bits(interfaces(engine, window=HOUR, scaled=False), way="out")["bytes"] == 17


def test_a_flow_that_is_metered_at_both_ends_counts_once(tmp_path):
    made = [
        record(0, bytes=100, in_if=1, out_if=2, direction=0),
        record(0, bytes=100, in_if=1, out_if=2, direction=1),
        record(1, bytes=30, in_if=3, out_if=2, direction=1),
    ]
    with Engine(store(tmp_path, rows(made))) as engine:
        found = interfaces(engine, window=HOUR)
        assert bits(found, interface=1, way="in")["bytes"] == 100
        assert bits(found, interface=2, way="out")["bytes"] == 130
        assert bits(found, interface=3, way="in")["bytes"] == 30


@pytest.mark.parametrize("scaled", [True, False])
def test_rolled_up_and_single_records_give_the_same_figures(tmp_path, scaled):
    made = rows(
        of_minutes(range(1, 30), sampling_rate=10, direction=0)
        + of_minutes(range(30), sampling_source=0, exporter="192.0.2.2")
    )
    store(tmp_path / "plain", made)
    store(tmp_path / "rolled", made.slice(0, 40), made.slice(40))
    part = pack(tmp_path / "rolled", made.slice(0, 40), 0, 0)
    range_ = Range("node-a", 0, 0, 0, T0, ())
    rollup.commit(tmp_path / "rolled" / "store", range_, [rollup.roll_up(made.slice(0, 40))], T0)
    options = {"window": HOUR, "step_ns": 5 * MINUTE, "scaled": scaled}
    with Engine(tmp_path / "plain") as plain, Engine(tmp_path / "rolled") as rolled:
        for text in ("", "exporter 192.0.2.2", "in if 1"):
            expected = interfaces(plain, filter=text, **options)
            found = interfaces(rolled, filter=text, **options)
            assert found.table.to_pylist() == expected.table.to_pylist()
            assert found.total == expected.total
    part.unlink()
    with Engine(tmp_path / "rolled") as rolled:
        # retention took the records; their roll-up is still there
        assert interfaces(rolled, **options).total["flows"] == made.num_rows
        assert interfaces(rolled, filter="bytes >= 0", **options).total["flows"] < made.num_rows


def test_wrong_percentiles_are_refused(tmp_path):
    with Engine(tmp_path) as engine:
        for percent in (0, 101, -1):
            with pytest.raises(QueryError, match="percentile"):
                interfaces(engine, percent=percent)


def test_exporters_have_last_record_rates_and_sampling(tmp_path):
    made = [
        record(0, bytes=5, packets=1, export_protocol=9, observation_domain=1, sampling_rate=10),
        record(9, bytes=6, packets=1, export_protocol=9, observation_domain=1, sampling_rate=20),
        record(5, bytes=7, packets=1, export_protocol=10, sampling_source=0),
        record(5, exporter="2001:db8::1", export_protocol=105),
    ]
    with Engine(store(tmp_path, rows(made))) as engine:
        found = exporters(engine, window=Window(T0, T0 + 10 * SECOND))
    first, second, third = found.table.to_pylist()
    assert (first["exporter"], first["observation_domain"], first["flows"]) == ("192.0.2.1", 1, 2)
    assert (first["first_ns"], first["last_ns"]) == (T0, T0 + 9 * SECOND)
    assert (first["rate_min"], first["rate_max"], first["unknown"]) == (10, 20, 0)
    assert (first["bytes"], first["flows_per_second"]) == (11, pytest.approx(0.2))
    assert (second["export_protocol"], second["rate_min"], second["unknown"]) == (10, None, 1)
    assert (third["exporter"], third["bytes"]) == ("2001:db8::1", 0)
    assert found.total["unknown"] == 1


def test_records_of_less_than_one_interval_have_one_bandwidth(tmp_path):
    window = Window(T0, T0 + MINUTE)
    with Engine(store(tmp_path, rows(of_minutes([100])))) as engine:
        row = bits(interfaces(engine, window=window, step_ns=5 * MINUTE), way="in")
    assert row["mean_bps"] == row["p95_bps"] == row["max_bps"] == pytest.approx(100 * 8 / 60)
