"""Packing and merging: same rows, sorted, each seen exactly once, whatever happens meanwhile."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from appliance.schema import EXTRA, LABELS
from appliance.store import compact, files, rollup, segment
from appliance.store import manifest as manifests
from appliance.store.durable import TEMPORARY
from appliance.store.files import (
    METADATA_KEY,
    SegmentName,
    Summary,
    list_hot,
    list_packed,
    read_visible,
    visible,
)
from appliance.store.maintenance import Pass, State
from appliance.store.retention import Policy
from appliance.store.retired import Reason, load
from appliance.store.sweep import quarantine_torn, sweep
from tests.unit.store_samples import HOUR, T0, flows, ids, write_hot

KEEP = Policy(max_age_ns=2**62, max_bytes=None, reserve_bytes=0, rollup_age_ns=2**62)
LATER = T0 + 24 * HOUR


def pack_all(table: Path, now_ns: int = 1) -> list[manifests.Range]:
    made = [compact.run(table, job, now_ns) for job in compact.hot_jobs(table, before_ns=2**62)]
    return [r for r in made if r is not None]


def a_pass(store: Path, now_ns: int = LATER, policy: Policy = KEEP) -> State:
    return Pass(store, policy, now_ns, State()).run()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    directory = tmp_path / "store" / "flows"
    directory.mkdir(parents=True)
    return directory


def test_packing_keeps_every_row_and_value(table: Path) -> None:
    tables = [flows(100, T0 + i * 10**9, first_id=100 * i, seed=i) for i in range(5)]
    for i, t in enumerate(tables):
        write_hot(table, t, i)
    [made] = pack_all(table)
    assert (made.first, made.last, made.rows) == (0, 3, 400)
    packed = pq.ParquetFile(visible(table)[0]).read().sort_by("flow_id")
    expected = pa.concat_tables(tables[:4]).select(packed.schema.names)
    assert packed.equals(expected.cast(packed.schema))
    assert ids(visible(table)) == list(range(500))


def test_the_newest_segment_of_a_shard_stays_hot(table: Path) -> None:
    for shard in (0, 1):
        for number in range(3):
            write_hot(table, flows(5, T0), number, shard=shard)
    pack_all(table)
    hot = [(p.name) for p in visible(table) if p.suffix == ".arrow"]
    assert sorted(hot) == ["node-a-0-000000000002.arrow", "node-a-1-000000000002.arrow"]


def test_rows_of_two_hours_go_to_two_files_that_appear_together(table: Path) -> None:
    write_hot(table, flows(60, T0 + HOUR - 30 * 10**9, step_ns=10**9), 1)
    write_hot(table, flows(1, T0 + HOUR), 2)
    [made] = pack_all(table)
    assert [(p.part, p.rows) for p in made.parts] == [("2023111422", 30), ("2023111423", 30)]
    assert [(p.min_ns - T0) // 10**9 for p in made.parts] == [3570, 3600]
    assert len(visible(table, until_ns=T0 + HOUR)) == 1


def test_rows_are_sorted_by_exporter_and_stay_in_order_below_it(table: Path) -> None:
    write_hot(table, flows(300, T0, exporters=("10.0.0.9", "2001:db8::1", "10.0.0.1")), 1)
    write_hot(table, flows(1, T0), 2)
    pack_all(table)
    rows = pq.ParquetFile(visible(table)[0]).read()
    keys = list(zip(rows["exporter"].to_pylist(), rows["received_ns"].to_pylist(), strict=True))
    assert keys == sorted(keys)


def test_the_metadata_of_a_packed_file_counts_its_rows_by_exporter(table: Path) -> None:
    write_hot(table, flows(10, T0 + HOUR - 5 * 10**9, step_ns=10**9), 1)
    write_hot(table, flows(10, T0, exporters=("2001:db8::1",)), 2)
    write_hot(table, flows(1, T0), 3)
    pack_all(table)
    found = {
        p.parent.name: Summary.of(pq.read_metadata(p).metadata)
        for p in visible(table)
        if p.suffix == ".parquet"
    }
    first, second = found["hour=2023111422"], found["hour=2023111423"]
    assert first.exporters == {"10.0.0.1": 3, "10.0.0.2": 2, "2001:db8::1": 10}
    assert second.exporters == {"10.0.0.1": 2, "10.0.0.2": 3}
    assert (first.rows, first.min_ns, second.rows) == (15, T0, 5)
    assert second.max_ns == T0 + HOUR + 4 * 10**9


def test_columns_that_only_some_segments_have_are_null_in_the_others(table: Path) -> None:
    plain = flows(3, T0)
    rich = flows(2, T0 + 10, first_id=3)
    rich = rich.append_column("mpls_labels", pa.array([[1, 2], None], LABELS))
    rich = rich.append_column("extra", pa.array([[("9.1", "x")], []], EXTRA))
    hops = pa.array([bytes(16), None], pa.binary(16))
    rich = rich.append_column("next_hop", pa.ExtensionArray.from_storage(pa.uuid(), hops))
    write_hot(table, plain, 1)
    write_hot(table, rich, 2)
    write_hot(table, plain, 3)
    pack_all(table)
    rows = pq.ParquetFile(visible(table)[0]).read().sort_by("flow_id")
    assert rows["mpls_labels"].to_pylist() == [None, None, None, [1, 2], None]
    assert rows["extra"].to_pylist() == [None, None, None, [("9.1", "x")], []]
    assert rows["next_hop"].null_count == 4


def test_segments_with_different_types_of_a_column_are_packed_apart(table: Path) -> None:
    for number, type_ in enumerate([pa.uint32(), pa.uint32(), pa.string(), pa.uint32()]):
        write_hot(table, flows(2, T0).append_column("odd", pa.array([None, None], type_)), number)
    write_hot(table, flows(1, T0), 4)
    assert [(r.first, r.last) for r in pack_all(table)] == [(0, 1), (2, 2), (3, 3)]


def test_duckdb_reads_addresses_as_uuid_and_finds_them(table: Path) -> None:
    write_hot(table, flows(50, T0), 1)
    write_hot(table, flows(1, T0), 2)
    pack_all(table)
    path = str(visible(table)[0])
    with duckdb.connect() as database:
        schema = database.execute(f"describe from '{path}'").fetchall()
        types = {row[0]: row[1] for row in schema}
        assert types["exporter"] == types["src_addr"] == "UUID"
        found = database.execute(
            f"select count(*) from '{path}' where exporter = $1",
            ["00000000-0000-0000-0000-ffff0a000001"],
        )
        assert found.fetchall() == [(25,)]


def test_a_run_does_not_grow_beyond_the_rows_of_a_job(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "MAX_ROWS", 25)
    for number in range(6):
        write_hot(table, flows(10, T0, first_id=10 * number), number)
    # two full runs; the last one is neither full nor old enough
    jobs = compact.hot_jobs(table, before_ns=0)
    assert [[f.name.first for f in j.files] for j in jobs] == [[0, 1], [2, 3]]


@pytest.mark.parametrize("compress", [True, False])
def test_segments_that_the_collector_writes_are_packed(table: Path, compress: bool) -> None:
    staged = []
    for number in range(4):
        # batches of one flush differ in their columns, and one is nearly empty
        one = flows(300, T0, first_id=301 * number).to_batches()[0]
        other = flows(1, T0, first_id=301 * number + 300).drop_columns(["in_if"]).to_batches()[0]
        name = SegmentName.hot("node-a", 0, number)
        staged.append(segment.stage(table, name, [one, other], (number, number + 1), compress))
    assert visible(table) == []
    segment.publish(staged)
    assert ids(visible(table)) == list(range(1204))
    [made] = pack_all(table)
    assert (made.first, made.last, made.rows) == (0, 2, 903)
    assert ids(visible(table)) == list(range(1204))
    rows = pq.ParquetFile(visible(table)[0]).read()
    assert rows["in_if"].null_count == 3
    assert not rows.schema.field("out_if").nullable


def test_an_unreadable_segment_is_never_covered_by_a_range(table: Path) -> None:
    for number in range(4):
        write_hot(table, flows(10, T0, first_id=10 * number), number)
    (table / SegmentName.hot("node-a", 0, 1).relative).write_bytes(b"torn")
    assert [(r.first, r.last) for r in pack_all(table)] == [(0, 0), (2, 2)]


def test_torn_segments_are_counted_and_kept_in_the_quarantine(table: Path) -> None:
    store = table.parent
    for number, data in enumerate([None, b"", b"ARROW1\0\0torn"]):
        path = write_hot(table, flows(10, T0), number)
        if data is not None:
            path.write_bytes(data)
    assert quarantine_torn(table) == 2
    assert quarantine_torn(table) == 0
    assert [n.first for n in list_hot(table)] == [0]
    assert load(store).tally("flows", Reason.CORRUPT).files == 2
    assert len(list((store / "quarantine/flows").iterdir())) == 2


def test_damage_inside_a_segment_is_found_when_it_is_packed(table: Path) -> None:
    store = table.parent
    for number in range(4):
        path = write_hot(table, flows(1000, T0, first_id=1000 * number), number)
        if number == 1:
            data = bytearray(path.read_bytes())
            middle = len(data) // 3
            data[middle : middle + 200] = bytes(200)
            path.write_bytes(data)
    [made] = pack_all(table)
    assert (made.first, made.last, made.rows) == (0, 2, 2000)
    tally = load(store).tally("flows", Reason.CORRUPT)
    assert (tally.files, tally.rows) == (1, 1000)
    assert tally.exporters == {"10.0.0.1": 500, "10.0.0.2": 500}
    assert ids(visible(table)) == [*range(1000), *range(2000, 4000)]


def test_an_input_that_is_removed_meanwhile_stops_the_commit(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_hot(table, flows(10, T0, first_id=10 * number), number)
    [job] = compact.hot_jobs(table, before_ns=2**62)
    write_range = compact.write_range

    def removing(*args: object, **kwargs: object) -> object:
        job.files[0].path.unlink()
        return write_range(*args, **kwargs)

    monkeypatch.setattr(compact, "write_range", removing)
    with pytest.raises(compact.VanishedError):
        compact.run(table, job, 1)
    assert ids(visible(table)) == list(range(10, 30))
    assert list_packed(table) == []


def test_small_ranges_are_merged_into_one_file_an_hour(table: Path) -> None:
    for number in range(18):
        write_hot(table, flows(10, T0 + number * HOUR // 10, first_id=10 * number), number)
        if number % 2 == 0 and number:
            pack_all(table)
    assert len(manifests.load(table).ranges) == 8
    [job] = compact.merge_jobs(table)
    made = compact.run(table, job, 1)
    assert made is not None
    assert (made.first, made.last) == (0, 15)
    assert [p.part for p in made.parts] == ["2023111422", "2023111423"]
    assert ids(visible(table)) == list(range(180))
    sweep(table, LATER)
    assert len(list_packed(table)) == 2
    assert compact.merge_jobs(table) == []


def test_a_large_range_is_not_written_again_for_a_few_rows(table: Path) -> None:
    ranges = [manifests.Range("n", 0, 0, 9, 1, (manifests.Part("2023111422", 5000, 1, T0, T0),))]
    ranges += [
        manifests.Range("n", 0, i, i, 1, (manifests.Part("2023111422", 10, 1, T0, T0),))
        for i in range(10, 18)
    ]
    manifests.commit(table, (), ranges)
    for r in ranges:
        path = table / SegmentName.packed("n", 0, r.first, r.last, "2023111422").relative
        path.parent.mkdir(exist_ok=True)
        path.touch()
    [job] = compact.merge_jobs(table)
    assert job.replaces == tuple(ranges[1:])


def test_a_merge_does_not_cover_a_hot_segment_or_one_set_apart(table: Path) -> None:
    for number in range(17):
        write_hot(table, flows(10, T0, first_id=10 * number), number)
    jobs = [compact.Job((f,)) for j in compact.hot_jobs(table, before_ns=2**62) for f in j.files]
    for job in jobs:
        if job.files[0].name.first != 7:
            compact.run(table, job, 1)
    [job] = compact.merge_jobs(table)
    assert (job.replaces[0].first, job.replaces[-1].last) == (8, 15)
    assert compact.merge_jobs(table, [SegmentName.hot("node-a", 0, 12)]) == []


def test_superseded_files_stay_for_a_grace_period(table: Path) -> None:
    for number in range(3):
        write_hot(table, flows(10, T0), number)
    pack_all(table, now_ns=LATER)
    assert sweep(table, LATER + 10**9) == 0
    assert len(list_hot(table)) == 3
    assert sweep(table, LATER + 3600 * 10**9) > 0
    assert len(list_hot(table)) == 1


# crashes


class Crash(BaseException):
    """The machine stops."""


@contextmanager
def crash_at(step: int) -> Iterator[list[int]]:
    """The ``step``-th durable operation, and all after it, do not happen."""
    done = [0]
    patch = pytest.MonkeyPatch()

    def stopping(function):
        def operation(*args, **kwargs):
            if done[0] >= step:
                raise Crash
            done[0] += 1
            return function(*args, **kwargs)

        return operation

    patch.setattr(os, "fsync", stopping(os.fsync))
    for name in ("rename", "unlink", "mkdir", "rmdir"):
        patch.setattr(Path, name, stopping(getattr(Path, name)))
    try:
        yield done
    finally:
        patch.undo()


def traffic(store: Path) -> tuple[int, int]:
    """Flows and bytes by the roll-ups and their tail."""
    found = rollup.sources(store)
    rows = bytes_ = 0
    for path in found.rollups:
        t = pq.ParquetFile(path).read(columns=["flows", "bytes"])
        rows += int(t["flows"].to_numpy().sum())
        bytes_ += int(t["bytes"].to_numpy().sum())
    for path in found.flows:
        if path.suffix == ".parquet":
            t = pq.ParquetFile(path).read(columns=["bytes"])
        else:
            t = pa.ipc.open_file(str(path)).read_all()
        rows += len(t)
        bytes_ += int(t["bytes"].to_numpy().sum())
    return rows, bytes_


def debris(store: Path) -> list[Path]:
    """Files that no reader and no later pass wants."""
    wanted = {p for t in ("flows", "rollup") for p in visible(store / t)}
    found = [p for p in store.rglob("*") if p.name.startswith(TEMPORARY)]
    for t in ("flows", "rollup"):
        found += [
            store / t / n.relative
            for n in [*list_hot(store / t), *list_packed(store / t)]
            if store / t / n.relative not in wanted
        ]
    return found


def test_a_crash_at_any_step_of_a_pass_leaves_each_row_visible_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "FAN_IN", 2)
    origin = tmp_path / "origin"
    table = origin / "flows"
    for number in range(5):
        write_hot(table, flows(20, T0, first_id=20 * number), number)
    a_pass(origin, LATER)
    for number in range(5, 9):
        begin = T0 + HOUR - 10 * 10**9
        write_hot(table, flows(20, begin, 10**9, first_id=20 * number, seed=number), number)
    expected = list(range(180))
    before = traffic(origin)
    assert before[0] == 180
    assert ids(visible(table)) == expected

    for step in count():
        store = tmp_path / "crashed"
        shutil.copytree(origin, store)
        with crash_at(step) as done:
            try:
                a_pass(store, LATER + HOUR)
                finished = True
            except Crash:
                finished = False
        assert ids(visible(store / "flows")) == expected, step
        assert traffic(store) == before, step
        for hours in (2, 3):
            state = a_pass(store, LATER + hours * HOUR)
            assert state.errors == []
            assert ids(visible(store / "flows")) == expected, step
            assert traffic(store) == before, step
        assert debris(store) == [], step
        assert load(store).tallies == {}
        shutil.rmtree(store)
        if finished:
            break
    assert done[0] > 30


@pytest.mark.parametrize("merging", [False, True])
def test_maintenance_at_any_moment_of_a_listing_does_not_disturb_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merging: bool
) -> None:
    monkeypatch.setattr(compact, "FAN_IN", 2)
    origin = tmp_path / "origin"
    for number in range(9):
        write_hot(origin / "flows", flows(10, T0, first_id=10 * number), number)
        if number in (3, 6):
            pack_all(origin / "flows")
    sweep(origin / "flows", LATER)

    def everything(table: Path) -> None:
        pack_all(table)
        for job in compact.merge_jobs(table) if merging else ():
            compact.run(table, job, 1)
        sweep(table, LATER)

    for moment in count():
        table = tmp_path / "disturbed" / "flows"
        shutil.copytree(origin, table.parent)
        passed = [0]

        def disturbing(function, table=table, passed=passed, moment=moment):
            def call(*args):
                for turn in ("before", "after"):
                    if passed[0] == moment:
                        passed[0] += 1
                        everything(table)
                    elif passed[0] < moment:
                        passed[0] += 1
                    if turn == "before":
                        result = function(*args)
                return result

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in ("list_hot", "_names", "_hot_figures"):
                patch.setattr(files, name, disturbing(getattr(files, name)))
            patch.setattr(manifests, "load", disturbing(manifests.load))
            listed = visible(table)
        vanished = [p for p in listed if not p.exists()]
        if passed[0] <= moment:
            break
        # what was listed and has gone again was right at some moment of the listing
        for path in vanished:
            shutil.copy(origin / "flows" / path.relative_to(table), path)
        assert ids(listed) == list(range(90)), moment
        shutil.rmtree(table.parent)
    assert moment > 8


def test_readers_in_another_thread_see_each_row_once(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "FAN_IN", 2)
    store = table.parent
    stop = threading.Event()
    wrong: list[str] = []
    reads = [0]

    def reader() -> None:
        while not stop.is_set():
            found = read_visible(table, ids, attempts=50)
            if found != list(range(len(found))) or len(found) % 10:
                wrong.append(f"{len(found)} rows")
            reads[0] += 1

    thread = threading.Thread(target=reader)
    thread.start()
    try:
        for number in range(30):
            rows = flows(10, T0, first_id=10 * number)
            staged = write_hot(store / "staging", rows, number)
            staged.rename(table / staged.name)
            if number % 3 == 0:
                # an hour later each time: superseded files go at once
                a_pass(store, LATER + number * HOUR)
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    assert reads[0] > 2
    assert ids(visible(table)) == list(range(300))


def test_a_file_without_metadata_is_no_segment(table: Path) -> None:
    path = write_hot(table, flows(10, T0), 1)
    with pa.memory_map(str(path)) as source:
        whole = pa.ipc.open_file(source).read_all()
    assert METADATA_KEY in whole.schema.metadata
    with pa.ipc.new_file(str(path), whole.schema.remove_metadata()) as writer:
        writer.write_table(whole.replace_schema_metadata(None))
    assert visible(table) == []
    assert quarantine_torn(table) == 1
