"""What leaves the store, oldest first, is counted by exporter exactly once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from itertools import count
from pathlib import Path

import pytest

from appliance.store import manifest as manifests
from appliance.store import retention, retired
from appliance.store.files import list_hot, list_packed, snapshot, visible
from appliance.store.maintenance import Pass, State
from appliance.store.retention import Policy, make_room
from appliance.store.retired import BALLAST, RETIRED, Reason, Retired, load
from tests.unit.store_samples import HOUR, T0, flows, ids, write_hot
from tests.unit.test_store_compact import Crash, a_pass, crash_at, pack_all

NEVER = 2**62


def policy(age: int = NEVER, bytes_: int | None = None, reserve: int = 0) -> Policy:
    return Policy(age, bytes_, reserve, NEVER)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    directory = tmp_path / "store"
    (directory / "flows").mkdir(parents=True)
    return directory


def hot_hours(store: Path, hours: int, table: str = "flows") -> None:
    for number in range(hours):
        write_hot(store / table, flows(10, T0 + number * HOUR, first_id=10 * number), number)


def test_records_older_than_retention_go_and_are_counted_by_exporter(store: Path) -> None:
    hot_hours(store, 6)
    pack_all(store / "flows")
    retention.apply(store, policy(age=3 * HOUR), T0 + 6 * HOUR)
    assert ids(visible(store / "flows")) == list(range(30, 60))
    assert load(store).rows(Reason.EXPIRED) == {"10.0.0.1": 15, "10.0.0.2": 15}
    tally = load(store).tally("flows", Reason.EXPIRED)
    assert (tally.files, tally.rows) == (3, 30)
    retention.apply(store, policy(age=3 * HOUR), T0 + 6 * HOUR)
    assert load(store).tally("flows", Reason.EXPIRED) == tally


def test_a_file_goes_only_when_all_of_its_rows_are_too_old(store: Path) -> None:
    write_hot(store / "flows", flows(10, T0, step_ns=HOUR // 10), 0)
    retention.apply(store, policy(age=HOUR), T0 + HOUR + HOUR // 2)
    assert len(ids(visible(store / "flows"))) == 10


def test_beyond_the_bytes_allowed_the_oldest_of_all_tables_go(store: Path) -> None:
    hot_hours(store, 4)
    hot_hours(store, 4, "counters")
    size = sum(f.size for f in retention.oldest_first(store) if f.name.first >= 2)
    retention.apply(store, policy(bytes_=size), NEVER)
    kept = {t: [f.name.first for f in snapshot(store / t)] for t in ("flows", "counters")}
    assert kept == {"flows": [2, 3], "counters": [2, 3]}
    assert load(store).tally("counters", Reason.EXPIRED).rows == 20


def test_entries_of_removed_files_leave_the_manifest_and_the_last_numbers_stay(
    store: Path,
) -> None:
    for number in range(5):
        write_hot(store / "flows", flows(10, T0 + number * HOUR), number)
        pack_all(store / "flows")
    assert len(manifests.load(store / "flows").ranges) == 4
    state = Pass(store, policy(age=HOUR), T0 + 100 * HOUR, State()).run()
    assert state.errors == []
    Pass(store, policy(age=HOUR), T0 + 101 * HOUR, State()).run()
    [last] = manifests.load(store / "flows").ranges
    assert (last.first, last.last, last.parts) == (3, 3, ())
    assert state.retired["expired"]["rows"] == 50


def test_room_is_made_by_superseded_files_before_any_record_goes(store: Path) -> None:
    hot_hours(store, 5)
    pack_all(store / "flows")
    assert make_room(store, 1) > 0
    assert ids(visible(store / "flows")) == list(range(50))
    assert load(store).tallies == {}


def test_room_is_made_by_the_oldest_records_counted_under_their_own_reason(store: Path) -> None:
    hot_hours(store, 6)
    first, second = (f.size for f in snapshot(store / "flows")[:2])
    assert make_room(store, first + second) >= first + second
    assert ids(visible(store / "flows")) == list(range(20, 60))
    assert load(store).rows(Reason.DISK_FULL) == {"10.0.0.1": 10, "10.0.0.2": 10}
    assert load(store).rows(Reason.EXPIRED) == {}


def test_the_newest_hot_segment_of_a_shard_is_never_removed_for_room(store: Path) -> None:
    hot_hours(store, 3)
    assert make_room(store, 2**40) > 0
    assert [n.first for n in list_hot(store / "flows")] == [2]
    assert make_room(store, 2**40) == 0


def test_below_the_reserve_the_oldest_records_go(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot_hours(store, 6)
    monkeypatch.setattr(retention, "free_bytes", lambda store: 1000)
    freed = retention.apply(store, policy(reserve=1001), T0)
    assert freed.disk_full > 0
    assert ids(visible(store / "flows")) == list(range(10, 60))


def test_a_reader_goes_on_reading_a_file_that_is_removed(store: Path) -> None:
    import pyarrow as pa

    hot_hours(store, 3)
    path = visible(store / "flows")[0]
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        make_room(store, 2**40)
        assert not path.exists()
        assert len(reader.read_all()) == 10


def test_a_crash_at_any_step_of_retention_counts_each_row_once(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    hot_hours(origin, 6)
    pack_all(origin / "flows")
    for step in count():
        store = tmp_path / "crashed"
        shutil.copytree(origin, store)
        rows_before = Counter({"10.0.0.1": 30, "10.0.0.2": 30})
        with crash_at(step):
            try:
                retention.apply(store, policy(age=3 * HOUR), T0 + 6 * HOUR)
                finished = True
            except Crash:
                finished = False
        # whoever comes next finishes it, here the full-disk policy with nothing to do
        retention.apply(store, policy(), T0)
        gone = load(store)
        kept: Counter[str] = Counter()
        for path in visible(store / "flows"):
            kept.update(retired.read_summary(path).exporters)
        assert kept + Counter(gone.rows(Reason.EXPIRED)) == rows_before, step
        assert gone.pending == []
        a_pass(store)
        assert len(list_packed(store / "flows")) == len(visible(store / "flows")) - 1
        shutil.rmtree(store)
        if finished:
            assert gone.tally("flows", Reason.EXPIRED).rows == 30
            break
    assert step > 8


def test_a_crash_while_a_torn_file_goes_to_the_quarantine_counts_it_once(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    hot_hours(origin, 3)
    torn = origin / "flows" / "node-a-0-000000000001.arrow"
    torn.write_bytes(b"torn")
    for step in count():
        store = tmp_path / "crashed"
        shutil.copytree(origin, store)
        with crash_at(step):
            try:
                a_pass(store)
                finished = True
            except Crash:
                finished = False
        state = a_pass(store)
        assert state.retired["corrupt"]["files"] == 1, step
        assert state.quarantined_files == 1, step
        shutil.rmtree(store)
        if finished:
            break
    assert step > 8


def test_the_ledger_survives_the_way_to_disk_and_back() -> None:
    ledger = Retired(pending=[("flows/x.arrow", True)])
    ledger.tally("flows", Reason.EXPIRED).exporters["2001:db8::1"] = 7
    assert Retired.decode(ledger.encode()) == ledger


@pytest.mark.parametrize("data", [b"", b"[]", b'{"version":9}', b'{"version":1,"tables":[]}'])
def test_a_foreign_ledger_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own error is one, too
        Retired.decode(data)


FULL_DISK = """
import sys
from pathlib import Path
from appliance.store import files, retention, retired
from tests.unit.store_samples import T0, flows, write_hot

store = Path(sys.argv[1]) / "store"
(store / "flows").mkdir(parents=True)
retention.make_room(store, 0)
assert (store / retired.BALLAST).exists()
filler = (store / "filler").open("wb", buffering=0)
written = 0
failures = 0
for number in range(60):
    rows = flows(10_000, T0 + number * 10**9, first_id=10_000 * number, seed=number)
    while True:
        try:
            write_hot(store / "flows", rows, number)
            break
        except OSError as error:
            assert error.errno == 28, error
            (store / "flows" / files.SegmentName.hot("node-a", 0, number).relative).unlink()
            failures += 1
            # not a byte is left for the ledger, either
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                pass
            assert retention.make_room(store, 300_000) >= 300_000
            filler.seek(0)
            filler.truncate()
    written += len(rows)
kept = sum(f.rows for f in files.snapshot(store / "flows"))
gone = retired.load(store).tally("flows", retired.Reason.DISK_FULL)
assert gone.rows == sum(gone.exporters.values())
print(failures, written, kept, gone.rows)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_makes_the_oldest_records_go_and_the_ledger_balances(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare (util-linux) is not installed")
    script = tmp_path / "full_disk.py"
    script.write_text(FULL_DISK)
    disk = tmp_path / "disk"
    disk.mkdir()
    probe = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", str(disk)],
        capture_output=True,
        check=False,
    )
    if probe.returncode:
        pytest.skip("mount namespaces are not allowed here")
    command = 'mount -t tmpfs -o size=6m none "$1" && exec "$2" "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "sh", str(disk), sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    failures, written, kept, gone = map(int, done.stdout.split())
    assert failures > 3
    assert written == 600_000
    assert kept + gone == written
    assert gone > 0


def test_the_ballast_gives_the_ledger_its_room(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot_hours(store, 3)
    retired.keep_ballast(store)
    replace_file = retired.replace_file

    def full(path: Path, data: bytes) -> None:
        if path.name == RETIRED and (store / BALLAST).exists():
            raise OSError(28, "No space left on device")
        replace_file(path, data)

    monkeypatch.setattr(retired, "replace_file", full)
    assert make_room(store, 1) > 0
    assert load(store).tally("flows", Reason.DISK_FULL).rows == 10
    assert (store / BALLAST).exists()


def test_a_damaged_ledger_is_set_aside_and_a_new_one_begun(store: Path) -> None:
    hot_hours(store, 3)
    (store / RETIRED).write_bytes(b"{")
    assert make_room(store, 1) > 0
    assert load(store).tally("flows", Reason.DISK_FULL).rows == 10
    assert len(list((store / "quarantine").iterdir())) == 1
