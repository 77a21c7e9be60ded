"""Minute roll-ups: exact sums, each row in them or in the tail, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from appliance.schema import DRILL_DOMAINS, SamplingSource
from appliance.store import compact, rollup
from appliance.store import manifest as manifests
from appliance.store.compact import hot_jobs
from appliance.store.files import SegmentName, list_packed
from appliance.store.maintenance import State
from tests.unit.store_samples import HOUR, T0, flows, write_hot
from tests.unit.test_store_compact import LATER, a_pass, pack_all, traffic

MINUTE = 60 * 10**9


def rolled(table: pa.Table) -> list[dict[str, Any]]:
    return rollup.roll_up(table).to_pylist()


def with_sampling(table: pa.Table, rates: list[int | None], source: list[int | None]) -> pa.Table:
    return table.append_column("sampling_rate", pa.array(rates, pa.uint32())).append_column(
        "sampling_source", pa.array(source, pa.uint8())
    )


def test_sums_are_those_of_a_plain_loop() -> None:
    table = flows(2000, T0 + MINUTE // 2, step_ns=10**8, exporters=("10.0.0.1", "10.0.0.2", "::1"))
    rates = np.random.default_rng(3).choice([0, 1, 100], 2000)
    sources = np.random.default_rng(4).choice([0, 1], 2000)
    table = with_sampling(table, rates.tolist(), sources.tolist())
    expected: dict[Any, list[float]] = {}
    for row in table.to_pylist():
        key = (row["received_ns"] // MINUTE * MINUTE, row["exporter"], row["in_if"], row["out_if"])
        total = expected.setdefault(key, [0] * 7)
        known = row["sampling_rate"] > 0 and row["sampling_source"] > 0
        rate = row["sampling_rate"] if known else 1
        values = (1, row["bytes"], row["packets"], row["bytes"] * rate, row["packets"] * rate)
        for i, value in enumerate((*values, not known, 0 if known else row["bytes"])):
            total[i] += value
    found = {}
    for row in rolled(table):
        assert row["direction"] is None
        key = (row["minute_ns"], row["exporter"], row["in_if"], row["out_if"])
        found[key] = [row[name] for name in rollup.SCHEMA.names[5:]]
    assert found == expected


def test_unknown_sampling_is_kept_apart() -> None:
    table = flows(3, T0, exporters=("10.0.0.1",)).set_column(
        6, "out_if", pa.array([1, 1, 1], pa.uint32())
    )
    known, unknown = int(SamplingSource.OPTIONS), int(SamplingSource.UNKNOWN)
    [row] = rolled(with_sampling(table, [1000, None, 50], [known, unknown, unknown]))
    sent = table["bytes"].to_pylist()
    assert (row["flows"], row["unscaled_flows"]) == (3, 2)
    assert row["bytes"] == sum(sent)
    assert row["scaled_bytes"] == 1000 * sent[0] + sent[1] + sent[2]
    assert row["unscaled_bytes"] == sent[1] + sent[2]


def test_a_missing_interface_is_null_and_not_zero() -> None:
    table = flows(4, T0, exporters=("10.0.0.1",)).drop_columns(["out_if"])
    table = table.set_column(5, "in_if", pa.array([None, 0, None, 0], pa.uint32()))
    found = {row["in_if"]: (row["out_if"], row["flows"]) for row in rolled(table)}
    assert found == {None: (None, 2), 0: (None, 2)}


def test_directions_are_kept_apart() -> None:
    table = flows(4, T0, exporters=("10.0.0.1",)).drop_columns(["out_if"])
    table = table.append_column("direction", pa.array([0, 1, 1, None], pa.uint8()))
    assert {r["direction"]: r["flows"] for r in rolled(table)} == {0: 1, 1: 2, None: 1}


def test_rows_without_counters_count_as_flows() -> None:
    table = flows(4, T0, exporters=("10.0.0.1",)).drop_columns(["bytes", "packets", "out_if"])
    [row] = rolled(table)
    assert (row["flows"], row["bytes"], row["scaled_packets"]) == (4, 0, 0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2**63, 2**63 - 1], 2**64 - 1),
        ([2**63, 2**63], 2**64 - 1),
        ([2**53 + 1, 2], 2**53 + 3),
        ([2**32 - 1, 1, 2**40], 2**40 + 2**32),
    ],
)
def test_large_counters_are_exact_until_they_do_not_fit(values: list[int], expected: int) -> None:
    table = flows(len(values), T0, exporters=("10.0.0.1",)).drop_columns(["out_if"])
    table = table.set_column(3, "bytes", pa.array(values, pa.uint64()))
    [row] = rolled(table)
    assert row["bytes"] == expected


def test_many_interfaces_and_exporters_do_not_run_into_each_other() -> None:
    n = 5000
    exporters = tuple(f"10.{i >> 8}.{i & 255}.1" for i in range(500))
    table = flows(n, T0, step_ns=10**9, exporters=exporters)
    for name, at in (("in_if", 5), ("out_if", 6)):
        values = np.random.default_rng(at).integers(0, 2**32, n).astype(np.uint32)
        table = table.set_column(at, name, pa.array(values))
    assert len(rolled(table)) == n


def test_the_tail_that_is_not_packed_yet_is_part_of_the_sources(tmp_path: Path) -> None:
    store = tmp_path
    for number in range(4):
        write_hot(store / "flows", flows(30, T0 + number * MINUTE, first_id=30 * number), number)
    total = traffic(store)
    assert total[0] == 120
    assert rollup.sources(store).rollups == []
    a_pass(store)
    found = rollup.sources(store)
    assert len(found.rollups) == 1
    assert [SegmentName.parse(p).first for p in found.flows] == [3]  # type: ignore[union-attr]
    assert traffic(store) == total


def test_a_time_span_selects_the_days_and_the_tail_of_it(tmp_path: Path) -> None:
    for number in range(3):
        write_hot(tmp_path / "flows", flows(30, T0 + number * 24 * HOUR), number)
    a_pass(tmp_path, T0 + 100 * HOUR)
    found = rollup.sources(tmp_path, T0 + 24 * HOUR, T0 + 25 * HOUR)
    assert [p.parent.name for p in found.rollups] == ["day=20231115"]
    assert found.flows == []


def test_a_range_whose_roll_up_is_missing_is_rolled_up_from_its_files(tmp_path: Path) -> None:
    for number in range(3):
        write_hot(tmp_path / "flows", flows(30, T0, first_id=30 * number), number)
    total = traffic(tmp_path)
    pack_all(tmp_path / "flows")
    assert traffic(tmp_path) == total
    assert rollup.catch_up(tmp_path, 1) == 1
    assert rollup.catch_up(tmp_path, 1) == 0
    assert traffic(tmp_path) == total
    assert len(rollup.sources(tmp_path).rollups) == 1


def test_roll_ups_are_not_merged_across_flows_that_are_not_rolled_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "FAN_IN", 2)
    table = tmp_path / "flows"
    for number in range(6):
        write_hot(table, flows(30, T0, first_id=30 * number), number)
    total = traffic(tmp_path)
    # segment 2 stays hot between packed neighbours
    [whole] = hot_jobs(table, before_ns=2**62)
    for file in whole.files:
        if file.name.first != 2:
            compact.run(table, compact.Job((file,)), 1)
    state = State()
    rollup.catch_up(tmp_path, 1)
    for job in compact.merge_jobs(tmp_path / "rollup", rollup.unrolled(tmp_path)):
        compact.run(tmp_path / "rollup", job, 1, rollup.ROLLUP)
    assert [(r.first, r.last) for r in manifests.load(tmp_path / "rollup").ranges] == [
        (0, 1),
        (3, 4),
    ]
    assert traffic(tmp_path) == total
    assert state.errors == []


def test_roll_ups_outlive_the_flows_they_are_of(tmp_path: Path) -> None:
    for number in range(3):
        write_hot(tmp_path / "flows", flows(30, T0, first_id=30 * number), number)
    a_pass(tmp_path)
    for name in list_packed(tmp_path / "flows"):
        (tmp_path / "flows" / name.relative).unlink()
    for hours in range(3):
        assert a_pass(tmp_path, LATER + hours * HOUR).errors == []
    assert traffic(tmp_path)[0] == 90
    rows = pq.ParquetFile(rollup.sources(tmp_path).rollups[0]).read()
    assert rows.schema.names == rollup.SCHEMA.names


def test_records_of_drills_are_not_rolled_up() -> None:
    table = flows(4, T0, step_ns=10**8, exporters=("10.0.0.1",))
    with_domain = [
        table.append_column("observation_domain", pa.array(domains, pa.uint32()))
        for domains in ([None, 7, DRILL_DOMAINS[0], DRILL_DOMAINS[-1]], [DRILL_DOMAINS[3]] * 4)
    ]
    (kept,) = rolled(with_domain[0])
    assert kept["flows"] == 2
    assert rolled(with_domain[1]) == []
