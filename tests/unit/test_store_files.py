"""Names of segments, the manifest, and which files a reader reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.store import manifest as manifests
from appliance.store.durable import TEMPORARY
from appliance.store.files import (
    SegmentName,
    last_number,
    list_hot,
    read_visible,
    snapshot,
    visible,
)
from appliance.store.manifest import ManifestError, Part, Range
from tests.unit.store_samples import HOUR, T0, flows, ids, write_hot


def _range(first: int, last: int, *parts: str, node: str = "node-a") -> Range:
    return Range(node, 0, first, last, 1, tuple(Part(p, 1, 1, T0, T0) for p in parts))


@pytest.mark.parametrize(
    "name",
    [
        SegmentName.hot("a", 0, 0),
        SegmentName.hot("rack-2.node-7", 12, 10**12),
        SegmentName.packed("a", 3, 1, 99, "2023111422"),
        SegmentName.packed("a-1-2", 3, 1, 99, "20231114"),
    ],
)
def test_a_name_survives_the_way_to_a_path_and_back(name: SegmentName) -> None:
    assert SegmentName.parse(name.relative) == name
    assert SegmentName.parse("/data/store/flows/" + name.relative) == name


@pytest.mark.parametrize(
    "path",
    [
        "manifest.json",
        "a-0-000000000001.parquet",
        "a-0-000000000001-000000000002.parquet",
        "hour=20231114/a-0-000000000001-000000000002.parquet",
        "-0-000000000001.arrow",
        "a-0-1.arrow",
        f"{TEMPORARY}a-0-000000000001.arrow",
        f"hour=2023111422/{TEMPORARY}a-0-000000000001-000000000002.parquet",
    ],
)
def test_other_files_are_no_segments(path: str) -> None:
    assert SegmentName.parse(path) is None


def test_a_table_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert visible(tmp_path / "flows") == []


def test_hot_segments_outside_the_time_asked_for_are_left_out(tmp_path: Path) -> None:
    for i in range(4):
        write_hot(tmp_path, flows(10, T0 + i * HOUR), i)
    numbers = [f.name.first for f in snapshot(tmp_path, T0 + HOUR, T0 + 3 * HOUR)]
    assert numbers == [1, 2]
    assert [f.rows for f in snapshot(tmp_path)] == [10] * 4


def test_parquet_files_are_invisible_until_the_manifest_names_them(tmp_path: Path) -> None:
    hot = write_hot(tmp_path, flows(10, T0), 1)
    packed = tmp_path / SegmentName.packed("node-a", 0, 1, 1, "2023111422").relative
    packed.parent.mkdir()
    packed.touch()
    assert visible(tmp_path) == [hot]
    manifests.commit(tmp_path, (), [_range(1, 1, "2023111422")])
    assert visible(tmp_path) == [packed]


def test_a_packed_file_that_retention_removed_does_not_bring_back_its_segments(
    tmp_path: Path,
) -> None:
    write_hot(tmp_path, flows(10, T0), 1)
    later = write_hot(tmp_path, flows(10, T0), 2)
    manifests.commit(tmp_path, (), [_range(1, 1, "2023111422")])
    assert visible(tmp_path) == [later]


def test_a_range_of_another_node_supersedes_nothing_here(tmp_path: Path) -> None:
    hot = write_hot(tmp_path, flows(10, T0), 1)
    manifests.commit(tmp_path, (), [_range(0, 9, "2023111422", node="node-b")])
    assert visible(tmp_path) == [hot]


def test_a_torn_or_empty_hot_segment_is_left_out(tmp_path: Path) -> None:
    good = write_hot(tmp_path, flows(10, T0), 1)
    torn = write_hot(tmp_path, flows(10, T0), 2)
    torn.write_bytes(torn.read_bytes()[:-20])
    write_hot(tmp_path, flows(10, T0), 3).write_bytes(b"")
    assert visible(tmp_path) == [good]


def test_a_reader_whose_file_vanishes_reads_again_from_a_fresh_list(tmp_path: Path) -> None:
    write_hot(tmp_path, flows(10, T0), 1)
    second = write_hot(tmp_path, flows(10, T0, first_id=10), 2)
    calls = []

    def read(paths: list[Path]) -> list[int]:
        calls.append(len(paths))
        second.unlink(missing_ok=True)
        return ids(paths)

    assert read_visible(tmp_path, read) == list(range(10))
    assert calls == [2, 1]


def test_an_error_of_the_reader_itself_is_not_retried(tmp_path: Path) -> None:
    write_hot(tmp_path, flows(10, T0), 1)

    def read(paths: list[Path]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read_visible(tmp_path, read)


def test_overlapping_ranges_are_refused(tmp_path: Path) -> None:
    manifests.commit(tmp_path, (), [_range(1, 5, "2023111422")])
    with pytest.raises(ManifestError, match="overlap"):
        manifests.commit(tmp_path, (), [_range(5, 6, "2023111422")])
    manifests.commit(tmp_path, (), [_range(5, 6, "2023111422", node="node-b")])
    assert [r.first for r in manifests.load(tmp_path).ranges] == [1, 5]


def test_an_unreadable_manifest_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"version":1,"ranges":[[1,2]]}')
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        visible(tmp_path)


def test_the_last_number_counts_hot_and_packed_segments_of_all_tables(tmp_path: Path) -> None:
    assert last_number(tmp_path, "node-a", 0) == -1
    write_hot(tmp_path / "flows", flows(1, T0), 3)
    (tmp_path / "counters").mkdir()
    manifests.commit(tmp_path / "counters", (), [_range(5, 9, "2023111422")])
    assert last_number(tmp_path, "node-a", 0) == 9
    assert last_number(tmp_path, "node-a", 1) == -1
    assert [n.first for n in list_hot(tmp_path / "flows")] == [3]
