"""Searching flow records: newest first, page by page."""

from __future__ import annotations

import pytest

from appliance.query.engine import Engine, QueryError, Window
from appliance.query.search import flows
from tests.unit.query_samples import SECOND, T0, pack, record, rows, store


@pytest.fixture
def engine(tmp_path):
    """40 records, ten of each instant, with an id that is not in the order of ties."""
    made = rows([record(i // 10, flow_id=(i * 7) % 40, src_port=i, bytes=i) for i in range(40)])
    store(tmp_path, made.slice(0, 15), made.slice(15))
    pack(tmp_path, made.slice(0, 15), 0, 0)
    with Engine(tmp_path) as engine:
        yield engine


def test_the_newest_come_first_and_no_more_than_asked_for(engine):
    page = flows(engine, limit=12, columns=["received_ns", "src_port"])
    seconds = [(ns - T0) // SECOND for ns in page.table["received_ns"].to_pylist()]
    assert seconds == [3] * 10 + [2] * 2
    assert page.next is not None


@pytest.mark.parametrize("limit", [1, 3, 7, 10, 13, 40, 100])
def test_pages_have_every_record_once_even_within_one_instant(engine, limit):
    found, token = [], None
    for _ in range(41):
        page = flows(engine, limit=limit, token=token, columns=["src_port", "received_ns"])
        found += page.table["src_port"].to_pylist()
        token = page.next
        if token is None:
            break
    assert sorted(found) == list(range(40))
    assert [port // 10 for port in found] == sorted((port // 10 for port in found), reverse=True)


def test_records_that_arrive_later_do_not_move_the_next_page(tmp_path):
    store(tmp_path, rows([record(i, src_port=i) for i in range(4)]))
    with Engine(tmp_path) as engine:
        first = flows(engine, limit=2, columns=["src_port"])
    store(tmp_path, rows([record(i, src_port=i) for i in range(4)]),
          rows([record(9, src_port=9)]))  # fmt: skip
    with Engine(tmp_path) as engine:
        second = flows(engine, limit=2, columns=["src_port"], token=first.next)
    assert first.table["src_port"].to_pylist() == [3, 2]
    assert second.table["src_port"].to_pylist() == [1, 0]
    assert second.next is None


def test_filter_window_and_token_work_together(engine):
    window = Window(T0 + SECOND, T0 + 3 * SECOND)
    found, token = [], None
    while True:
        page = flows(engine, filter="src port in [5-35]", window=window, limit=6, token=token,
                     columns=["src_port"])  # fmt: skip
        found += page.table["src_port"].to_pylist()
        token = page.next
        if token is None:
            break
    assert sorted(found) == list(range(10, 30))


def test_all_columns_are_those_with_values(engine):
    page = flows(engine, columns=None, limit=5)
    assert set(page.table.column_names) == {
        "received_ns", "exporter", "sampling_rate", "sampling_source", "src_port", "bytes",
        "flow_id",
    }  # fmt: skip


def test_nothing_found_is_an_empty_page_with_its_columns(engine):
    page = flows(engine, filter="port 9999", columns=["src_addr", "bytes"])
    assert page.table.column_names == ["src_addr", "bytes"]
    assert (page.table.num_rows, page.next) == (0, None)


def test_discard_samples_are_found(tmp_path):
    with Engine(store(tmp_path, rows([record(0, kind=2, bytes=1)]))) as engine:
        assert flows(engine).table.num_rows == 1


@pytest.mark.parametrize("token", ["", "x", "ä", "WzEsMl0x", "WyJhIiwxXQ", "WzEsLTFd"])
def test_a_token_that_is_none_is_refused(engine, token):
    with pytest.raises(QueryError, match="no token"):
        flows(engine, token=token)


def test_a_column_that_does_not_exist_is_named(engine):
    with pytest.raises(QueryError, match="'nonsense'"):
        flows(engine, columns=["nonsense"])
