"""The engine: packed and hot files as one table, whatever happens to them meanwhile."""

from __future__ import annotations

import os
import random
import signal
import threading
import uuid

import duckdb
import pyarrow as pa
import pytest

from appliance.query import engine as engine_module
from appliance.query import macros
from appliance.query.engine import Engine, QueryError, QueryTimeoutError, Window
from appliance.query.sql import sql
from appliance.query.values import address_text, flags_text, mac_text
from appliance.schema import CANONICAL
from appliance.store.files import visible
from tests.unit.query_samples import SECOND, T0, pack, record, rows, store


@pytest.fixture
def made():
    return rows([record(i, src_addr=f"10.0.0.{i}", bytes=i, packets=1) for i in range(10)])


def test_packed_and_hot_files_are_one_table(tmp_path, made):
    store(tmp_path, made.slice(0, 4), made.slice(4, 6))
    pack(tmp_path, made.slice(0, 4), 0, 0)
    with Engine(tmp_path) as engine:
        found = engine.execute("SELECT count(*) AS n, sum(bytes) AS b FROM flows").to_pylist()
    assert found == [{"n": 10, "b": 45}]


def test_an_empty_store_has_all_canonical_columns(tmp_path):
    with Engine(tmp_path) as engine:
        found = sql(engine, "SELECT * FROM flows")
        assert found.column_names == list(CANONICAL)
        assert found.num_rows == 0
        assert sql(engine, "SELECT count(*) AS n FROM counters")["n"].to_pylist() == [0]
        assert sql(engine, "SELECT exporter, received_ns FROM options").num_rows == 0


def test_files_with_different_columns_fill_each_other_with_nulls(tmp_path):
    store(
        tmp_path,
        rows([record(0, src_addr="10.0.0.1", extra=[("9.1", "ff")])]),
        rows([record(1, as_path=[1, 2], colour="red")], {"colour": pa.string()}),
    )
    with Engine(tmp_path) as engine:
        found = sql(engine, "SELECT src_addr, as_path, colour, extra FROM flows ORDER BY bytes, "
                    "received_ns")  # fmt: skip
        assert found.to_pylist() == [
            {"src_addr": "10.0.0.1", "as_path": None, "colour": None, "extra": [("9.1", "ff")]},
            {"src_addr": None, "as_path": [1, 2], "colour": "red", "extra": None},
        ]
        assert engine.columns()["colour"] == pa.string()


def test_files_that_disagree_on_a_type_can_still_be_read(tmp_path):
    store(
        tmp_path,
        rows([record(0, colour="red")], {"colour": pa.string()}),
        rows([record(1, colour=3)], {"colour": pa.uint8()}),
    )
    with Engine(tmp_path) as engine:
        found = sql(engine, "SELECT colour FROM flows ORDER BY received_ns")
    assert found["colour"].to_pylist() == ["red", "3"]


@pytest.mark.parametrize("gone", ["hot", "packed"])
def test_a_query_begins_again_when_a_file_vanishes(tmp_path, made, monkeypatch, gone):
    store(tmp_path, made.slice(0, 4), made.slice(4, 6))
    if gone == "packed":
        pack(tmp_path, made.slice(0, 4), 0, 0)
    folder = tmp_path / "store" / "flows"
    looks = []

    def look(*arguments):
        found = visible(*arguments)
        looks.append(len(found))
        if len(looks) == 1:  # maintenance comes between the look and the read
            victim = min(p for p in found if (p.suffix == ".parquet") == (gone == "packed"))
            victim.unlink()
        return found

    monkeypatch.setattr(engine_module, "visible", look)
    with Engine(tmp_path) as engine:
        found = engine.execute("SELECT count(*) AS n FROM flows")["n"].to_pylist()
    assert found == [6]
    assert looks == [2, 1]
    assert folder.exists()


def test_a_damaged_file_is_named_in_the_error(tmp_path, made):
    store(tmp_path, made)
    path = pack(tmp_path, made, 0, 0)
    path.write_bytes(b"PAR1 no more PAR1")
    with Engine(tmp_path) as engine, pytest.raises(QueryError, match=r"\.parquet"):
        engine.execute("SELECT count(*) FROM flows")


def test_a_query_that_takes_too_long_is_ended(tmp_path):
    with Engine(tmp_path, seconds=0.2) as engine:
        with pytest.raises(QueryTimeoutError, match=r"longer than 0\.2 s"):
            engine.execute("SELECT count(*) FROM range(1000000) a, range(1000000) b "
                           "WHERE a.range * b.range % 7 = 3")  # fmt: skip
        assert engine.execute("SELECT 1 AS one")["one"].to_pylist() == [1]


def test_ctrl_c_ends_a_query(tmp_path, made):
    store(tmp_path, made)
    with Engine(tmp_path) as engine:
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                sql(engine, "SELECT count(*) FROM range(10000000) a, range(10000000) b, flows")
        finally:
            timer.cancel()
        assert sql(engine, "SELECT 1 AS n")["n"].to_pylist() == [1]


def test_threads_share_an_engine(tmp_path, made):
    store(tmp_path, made)
    found: list[int] = []
    with Engine(tmp_path) as engine:

        def ask(i: int) -> None:
            where = f"SELECT count(*) AS n FROM flows WHERE bytes < {i}"
            found.append(i - engine.execute(where)["n"][0].as_py())

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [0] * 8


def test_sql_reads_one_statement_and_writes_nothing(tmp_path, made):
    store(tmp_path, made)
    target = tmp_path / "store" / "flows" / "x.csv"
    with Engine(tmp_path) as engine:
        for statement in (
            f"COPY (SELECT 1) TO '{target}'",
            "CREATE TABLE t AS SELECT 1",
            "SET threads = 9",
            "ATTACH 'x.db'",
            "SELECT 1; SELECT 2",
            "",
            "SELEC 1",
            "SELECT * FROM '/etc/passwd'",
            "SELECT * FROM read_csv('/etc/passwd')",
            "SELECT nothing FROM flows",
            "SELECT addr('nonsense')",
        ):
            with pytest.raises(QueryError):
                sql(engine, statement)
        assert not target.exists()
        assert sql(engine, "EXPLAIN SELECT * FROM flows").num_rows
        assert "exporter" in sql(engine, "DESCRIBE flows")["column_name"].to_pylist()


def test_sql_sees_the_rows_of_its_window_only(tmp_path, made):
    store(tmp_path, made)
    window = Window(T0 + 3 * SECOND, T0 + 5 * SECOND)
    with Engine(tmp_path) as engine:
        assert sql(engine, "SELECT count(*) AS n FROM flows", window)["n"].to_pylist() == [2]


def test_addresses_macs_and_wide_sums_are_presentable(tmp_path):
    store(tmp_path, rows([record(0, src_addr="::1", src_mac=0xAABBCCDDEEFF, bytes=2**64 - 1),
                          record(1, src_addr=None, src_mac=None, bytes=1)]))  # fmt: skip
    with Engine(tmp_path) as engine:
        found = sql(engine, "SELECT src_addr, src_mac FROM flows ORDER BY received_ns").to_pylist()
        assert found[0] == {"src_addr": "::1", "src_mac": "aa:bb:cc:dd:ee:ff"}
        assert found[1] == {"src_addr": None, "src_mac": None}
        assert sql(engine, "SELECT sum(packets) AS s FROM flows")["s"].to_pylist() == [None]
        assert sql(engine, "SELECT sum(bytes) AS s FROM flows")["s"].to_pylist() == [float(2**64)]
        assert sql(engine, "SELECT sum(5) AS s FROM flows")["s"].type == pa.int64()


def test_times_are_presentable_to_the_microsecond(tmp_path):
    made = record(0)
    made["received_ns"] += 123_456_789
    store(tmp_path, rows([made]))
    with Engine(tmp_path) as engine:
        found = sql(engine, "SELECT utc(received_ns) AS t, now() AS n FROM flows").to_pylist()
    assert found[0]["t"].microsecond == 123_456
    assert found[0]["n"].tzinfo is not None


@pytest.fixture(scope="module")
def functions():
    with duckdb.connect() as connection:
        macros.install(connection)
        yield connection


def test_the_text_of_an_address_in_sql_is_that_of_rfc_5952(functions):
    chosen = random.Random(4)
    numbers = [0, 1, 2**128 - 1, 0xFFFF00000000, 0xFFFFFFFFFFFF, 0x1000000000000, 1 << 127]
    for _ in range(2000):  # runs of zero groups in every place
        groups = [chosen.choice([0, 0, 0, 1, 0xFFFF, chosen.randrange(65536)]) for _ in range(8)]
        numbers.append(int("".join(f"{g:04x}" for g in groups), 16))
    values = [uuid.UUID(int=n) for n in numbers]
    found = functions.execute("SELECT ip(unnest($a::UUID[]))", {"a": values}).fetchall()
    assert [text for (text,) in found] == [address_text(n) for n in numbers]


def test_functions_for_people(functions):
    one = functions.execute(
        """SELECT mac(187723572702975::UBIGINT), flags(18), flags(0), protocol_name(17),
                  protocol_name(250), export_name(9), sampling_source_name(0),
                  in_net(addr('10.9.9.9'), '10.0.0.0/8'), in_net(addr('11.0.0.0'), '10.0.0.0/8'),
                  in_net(addr('2001:db8::5'), '2001:db8::/32'), is_ipv4(addr('10.0.0.1')),
                  is_ipv4(addr('::1')), ip(NULL), mac(NULL), flags(NULL), addr(NULL)"""
    ).fetchone()
    assert one == (
        mac_text(0xAABBCCDDEEFF), flags_text(18), ".", "udp", "250", "netflow_v9", "unknown",
        True, False, True, True, False, None, None, None, None,
    )  # fmt: skip
