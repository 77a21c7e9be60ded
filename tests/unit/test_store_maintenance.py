"""The maintenance process: one at a time, never fatal, and it says what it found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.config_model import Config, Store
from appliance.store import compact, maintenance, rebuild, retention
from appliance.store import manifest as manifests
from appliance.store.durable import locked
from appliance.store.files import visible
from appliance.store.maintenance import LOCK, STATE, load_state, run, run_once
from appliance.store.manifest import ManifestError
from tests.unit.store_samples import HOUR, T0, flows, ids, write_hot


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(data_dir=tmp_path, store=Store(retention_days=30, reserve_bytes=0))


def add(config: Config, numbers: range, table: str = "flows", at: int = T0) -> None:
    for n in numbers:
        rows = flows(100, at + n * 10**9, step_ns=10**7, first_id=100 * n)
        write_hot(config.data_dir / "store" / table, rows, n)


def test_a_pass_on_an_empty_store_makes_only_figures(config: Config) -> None:
    state = run_once(config, T0)
    assert state is not None
    assert state.errors == []
    assert state.hours_until_full is None
    assert state.tables["flows"].rows == 0


def test_the_figures_of_a_pass_are_on_file_for_the_api(config: Config) -> None:
    add(config, range(5))
    add(config, range(2), "counters")
    state = run_once(config, T0 + HOUR)
    assert state is not None
    assert load_state(config.data_dir / "store") == state
    document = json.loads((config.data_dir / "store" / STATE).read_text())
    table = document["tables"]["flows"]
    assert (table["rows"], table["files"], table["hot_files"]) == (500, 2, 1)
    assert table["oldest_ns"] == T0
    assert document["packed_rows"] == 400 + 100
    assert document["cpu_seconds"] > 0
    assert document["hours_until_full"] > 0
    assert document["tables"]["counters"]["rows"] == 200


def test_totals_go_on_from_pass_to_pass(config: Config) -> None:
    add(config, range(3))
    run_once(config, T0 + HOUR)
    add(config, range(3, 5))
    state = run_once(config, T0 + HOUR + 10**9)
    assert state is not None
    assert (state.passes, state.packed_rows) == (2, 400)


def test_only_one_process_maintains_a_store(config: Config) -> None:
    add(config, range(3))
    with locked(config.data_dir / "store" / LOCK):
        assert run_once(config, T0 + HOUR) is None
    assert len(visible(config.data_dir / "store/flows")) == 3


def test_young_segments_wait_until_there_are_enough_of_them(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(config, range(10))
    state = run_once(config, T0 + 20 * 10**9)
    assert state is not None
    assert state.packed_rows == 0
    monkeypatch.setattr(compact, "MAX_ROWS", 450)
    state = run_once(config, T0 + 20 * 10**9)
    assert state is not None
    assert state.packed_rows == 800
    add(config, range(10, 14))
    monkeypatch.setattr(maintenance, "HOT_FILES", 4)
    state = run_once(config, T0 + 20 * 10**9)
    assert state is not None
    assert state.packed_rows == 1300


def test_a_step_that_fails_is_reported_and_the_others_are_done(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(config, range(3))
    add(config, range(3), "counters")
    write_range = compact.write_range

    def failing(table: Path, *rest: object) -> object:
        if table.name == "flows":
            raise OSError(5, "Input/output error")
        return write_range(table, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(compact, "write_range", failing)
    state = run_once(config, T0 + HOUR)
    assert state is not None
    assert state.errors == ["flows: pack: [Errno 5] Input/output error"]
    assert state.packed_rows == 200
    assert ids(visible(config.data_dir / "store/flows")) == list(range(300))


def test_packing_on_a_full_disk_makes_room_and_leaves_no_parts_behind(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(config, range(6))
    store = config.data_dir / "store"
    writes = []

    def full(path: Path, *rest: object) -> int:
        writes.append(path)
        path.with_name(".tmp-" + path.name).write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compact, "_write", full)
    monkeypatch.setattr(maintenance, "FULL_BYTES", 0)
    state = run_once(config, T0 + HOUR)
    assert state is not None
    assert writes
    assert "No space left" in state.errors[0]
    assert state.retired["disk_full"]["rows"] + state.tables["flows"].rows == 600
    assert state.retired["disk_full"]["rows"] > 0
    assert list(store.rglob("*.parquet")) == []


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version":2,"ranges":[]}', bytes(500)])
def test_a_damaged_manifest_is_rebuilt_from_the_files(config: Config, damage: bytes) -> None:
    store = config.data_dir / "store"
    for first in (0, 6):
        add(config, range(first, first + 6), at=T0 + HOUR - 5 * 10**9)
        run_once(config, T0 + 2 * HOUR)
    before = manifests.load(store / "flows")
    (store / "flows/manifest.json").write_bytes(damage)
    with pytest.raises(ManifestError):
        visible(store / "flows")
    assert retention.make_room(store, 0) == 0
    state = run_once(config, T0 + 2 * HOUR)
    assert state is not None
    assert state.errors == ["flows: the manifest was damaged and has been rebuilt"]
    assert state.retired["disk_full"]["files"] == 0
    assert ids(visible(store / "flows")) == list(range(1200))
    after = manifests.load(store / "flows")
    assert [(r.first, r.last, r.parts) for r in after.ranges] == [
        (r.first, r.last, r.parts) for r in before.ranges
    ]
    assert len(list((store / "quarantine/flows").iterdir())) == 1


def test_rebuilding_takes_a_whole_range_and_refuses_half_of_one(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = config.data_dir / "store/flows"
    add(config, range(5), at=T0 + HOUR - 2 * 10**9)
    [job] = compact.hot_jobs(table, before_ns=2**62)
    made = compact.run(table, job, 1)
    assert made is not None
    assert len(made.parts) == 2
    whole = rebuild.from_files(table)
    assert [(r.first, r.last) for r in whole.ranges] == [(0, 3)]
    (table / "hour=2023111423/node-a-0-000000000000-000000000003.parquet").unlink()
    assert rebuild.from_files(table).ranges == ()
    # retention took the rest of it, as its sources are gone
    for path in table.glob("*.arrow"):
        path.unlink()
    [r] = rebuild.from_files(table).ranges
    assert [p.part for p in r.parts] == ["2023111422"]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"tables":{"flows":{"odd":1}}}'])
def test_a_foreign_state_file_is_as_good_as_none(config: Config, data: bytes) -> None:
    store = config.data_dir / "store"
    store.mkdir()
    (store / STATE).write_bytes(data)
    assert load_state(store).passes == 0


def test_the_loop_ends_when_it_is_told_to(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance.time, "sleep", lambda seconds: None)
    answers = iter([False, False, True])
    run(config, lambda: next(answers))
    assert load_state(config.data_dir / "store").passes == 1


def test_many_hot_segments_make_a_pass_begin_early(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(maintenance, "HOT_FILES", 3)
    passes = []

    def pass_(config: Config) -> None:
        passes.append(len(visible(config.data_dir / "store/flows")))
        add(config, range(3 + len(passes)))

    monkeypatch.setattr(maintenance, "run_once", pass_)
    answers = iter([False, False, False, True])
    run(config, lambda: next(answers))
    # the first is due, before there is anything; four files are enough for another, and five
    assert passes == [0, 4, 5]
    monkeypatch.setattr(maintenance, "HOT_FILES", 9)
    answers = iter([False, False, True])
    run(config, lambda: next(answers))
    assert passes == [0, 4, 5, 6]
    monkeypatch.setattr(maintenance, "HOT_BYTES", 1)
    answers = iter([False, False, True])
    run(config, lambda: next(answers))
    assert passes == [0, 4, 5, 6, 7, 8]
