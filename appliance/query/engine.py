"""DuckDB over the store: tables ``flows``, ``counters`` and ``options``, as one snapshot a query.

Compacted files are read with DuckDB's Parquet reader, hot segments as a pyarrow dataset; both get
only the columns and, where possible, the rows that a query wants. Canonical columns that no file
has are there as typed nulls, so that a query never fails for want of data.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from appliance.query import macros
from appliance.query.present import present
from appliance.query.terms import SQL_TYPES
from appliance.schema import CANONICAL
from appliance.store import rollup
from appliance.store.files import visible
from appliance.store.manifest import ManifestError

THREADS = 2
_ATTEMPTS = 5
_GIB = 1 << 30
_SHARED = {
    name: CANONICAL[name]
    for name in (
        "received_ns", "exporter", "exporter_port", "export_protocol", "observation_domain",
        "export_ns", "template_id",
    )
}  # fmt: skip
"""The columns that counters and options always have; the others depend on what was sent."""
_ROLLUP = {field.name: field.type for field in rollup.SCHEMA}


class QueryError(Exception):
    """A query that cannot be answered: what was wrong, and what to do."""


class QueryTimeoutError(QueryError):
    """The query was ended because it took too long."""


@dataclass(frozen=True, slots=True)
class Window:
    """A span of arrival time: ``since_ns`` is included, ``until_ns`` is not; None: no bound."""

    since_ns: int | None = None
    until_ns: int | None = None

    def sql(self, column: str = "received_ns") -> str:
        """The condition on ``column``."""
        tests = []
        if self.since_ns is not None:
            tests.append(f"{column} >= {int(self.since_ns)}")
        if self.until_ns is not None:
            tests.append(f"{column} < {int(self.until_ns)}")
        return " AND ".join(tests) or "true"


EVER = Window()


class Engine:
    """Answers queries on one data directory; reads only; may be shared by threads.

    ``seconds``: a query that takes longer is ended with :class:`QueryTimeoutError`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        threads: int = THREADS,
        memory_bytes: int | None = None,
        seconds: float | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.store = data_dir / "store"
        self.seconds = seconds
        self._lock = threading.Lock()
        spill = Path(tempfile.gettempdir()) / f"tandem-query-{os.getuid()}-{os.getpid()}"
        self._database = duckdb.connect(
            config={
                "threads": threads,
                "memory_limit": f"{(memory_bytes or _memory()) >> 20}MiB",
                "temp_directory": str(spill),
                "preserve_insertion_order": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "python_enable_replacements": False,
            }
        )
        for setting in ("parquet_metadata_cache = true", "enable_progress_bar = false"):
            self._database.execute(f"SET {setting}")
        macros.install(self._database)
        # whoever may write SQL may read the store with it, and no other file of the machine
        self._database.execute("SET allowed_directories = ?", [[str(self.store.absolute())]])
        self._database.execute("SET enable_external_access = false")
        self._database.execute("SET lock_configuration = true")

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; queries that run are ended."""
        self._database.close()

    def execute(
        self,
        sql: str,
        parameters: Mapping[str, object] | None = None,
        *,
        window: Window = EVER,
        columns: Mapping[str, pa.DataType] | None = None,
        tables: Sequence[str] = ("flows",),
        bounded: bool = False,
        rolled_up: bool = False,
    ) -> pa.Table:
        """The rows of ``sql``, in presentable types (see :mod:`appliance.query.present`).

        ``window`` says which files are read; it filters rows only if ``bounded``. ``columns``:
        those that the query reads; without them, all that any file has. Files that vanish meanwhile
        (maintenance, retention) are no error: the query begins again with what is there then.

        ``rolled_up``: there is also a table ``rollup`` (see store/rollup.py), and ``flows`` has
        only what is not in it yet.
        """
        attempts = _ATTEMPTS
        while True:
            attempts -= 1
            paths = self._paths(window, tables, rolled_up)
            try:
                return self._attempt(
                    sql, dict(parameters or {}), columns, paths, window if bounded else EVER
                )
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                vanished = not all(path.exists() for found in paths.values() for path in found)
                if not vanished or attempts <= 0:
                    raise _explained(error) from error

    def _paths(
        self, window: Window, tables: Sequence[str], rolled_up: bool
    ) -> dict[str, list[Path]]:
        bounds = window.since_ns, window.until_ns
        try:
            if rolled_up:
                found = rollup.sources(self.store, *bounds)
                return {"flows": found.flows, rollup.TABLE: found.rollups}
            return {table: visible(self.store / table, *bounds) for table in tables}
        except (OSError, ManifestError) as error:
            raise QueryError(f"the store cannot be read: {error}") from error

    def _attempt(
        self,
        sql: str,
        parameters: dict[str, object],
        columns: Mapping[str, pa.DataType] | None,
        paths: dict[str, list[Path]],
        rows: Window,
    ) -> pa.Table:
        with self._lock:
            cursor = self._database.cursor()
        timer = threading.Timer(self.seconds, cursor.interrupt) if self.seconds else None
        try:
            if timer:
                timer.start()
            for table, found in paths.items():
                shape = {"flows": columns, rollup.TABLE: _ROLLUP}.get(table)
                _define(cursor, table, found, shape, rows)
            relation = cursor.sql(sql, params=parameters) if parameters else cursor.sql(sql)
            types = [str(t) for t in relation.types]
            return present(_fetched(relation, cursor), types)
        except duckdb.InterruptException as error:
            raise QueryTimeoutError(
                f"the query took longer than {self.seconds:g} s and was ended; "
                "ask for less time (--last), or filter more"
            ) from error
        finally:
            if timer:
                timer.cancel()
            cursor.close()

    def columns(self, window: Window = EVER, table: str = "flows") -> dict[str, pa.DataType]:
        """All columns: the canonical ones, and those that files of ``window`` have besides."""
        found: dict[str, pa.DataType] = dict(CANONICAL)
        for path in visible(self.store / table, window.since_ns, window.until_ns):
            try:
                for field in _schema(str(path)):
                    found.setdefault(field.name, field.type)
            except (OSError, pa.ArrowException):
                continue
        return found


def _memory() -> int:
    """Bytes that queries may use: half of the machine's, at most 4 GiB."""
    return min(4 * _GIB, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


def _explained(error: Exception) -> Exception:
    if isinstance(error, duckdb.OutOfMemoryException):
        return QueryError(f"the query needs more memory than it may use: {error}")
    if isinstance(error, duckdb.Error):
        return QueryError(_without_clutter(str(error)))
    return QueryError(f"the store cannot be read: {error}")


def _without_clutter(message: str) -> str:
    """DuckDB's message without the names of Python's exceptions."""
    _, found, rest = message.partition("executing the UDF: ValueError: ")
    return rest if found else message


@lru_cache(maxsize=16384)
def _schema(path: str) -> pa.Schema:
    """The schema of a file of the store; cached, for they never change."""
    if path.endswith(".parquet"):
        return ds.dataset(path, format="parquet").schema
    with pa.memory_map(path) as source:
        return pa.ipc.open_file(source).schema


def _fetched(relation: duckdb.DuckDBPyRelation, cursor: duckdb.DuckDBPyConnection) -> pa.Table:
    """All rows. Ctrl-C ends the query: Python hears of signals in the main thread only, and not
    while DuckDB is at work there.
    """
    if threading.current_thread() is not threading.main_thread():
        return relation.to_arrow_table()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(relation.to_arrow_table)
        try:
            return work.result()
        except KeyboardInterrupt:
            cursor.interrupt()
            raise


def _define(
    cursor: duckdb.DuckDBPyConnection,
    table: str,
    paths: list[Path],
    columns: Mapping[str, pa.DataType] | None,
    rows: Window,
) -> None:
    """Make ``paths`` the view ``table`` of ``cursor``."""
    shape = columns or (CANONICAL if table == "flows" else _SHARED)
    nulls = ", ".join(f"NULL::{SQL_TYPES[t]} AS {quoted(name)}" for name, t in shape.items())
    legs = [f"SELECT {nulls} WHERE false"]
    packed = [str(p.absolute()) for p in paths if p.suffix == ".parquet"]
    if packed:
        files = ", ".join("'" + name.replace("'", "''") + "'" for name in packed)
        options = "union_by_name = true, hive_partitioning = false"
        legs.append(f"SELECT * FROM read_parquet([{files}], {options})")
    hot = [str(p) for p in paths if p.suffix == ".arrow"]
    for i, dataset in enumerate(_datasets(hot, columns)):
        cursor.register(f"hot_{table}_{i}", dataset)
        legs.append(f"SELECT * FROM hot_{table}_{i}")
    union = " UNION ALL BY NAME ".join(legs)
    if rows != EVER:
        union = f"SELECT * FROM ({union}) WHERE {rows.sql()}"
    cursor.execute(f"CREATE TEMP VIEW {table} AS {union}")


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _datasets(hot: list[str], columns: Mapping[str, pa.DataType] | None) -> list[ds.Dataset]:
    """Hot segments as datasets. Files that disagree on the type of a column go to different ones.

    Where the columns are given, no file need be opened here, if they are all canonical: their types
    are the same everywhere.
    """
    if not hot:
        return []
    if columns is not None and all(CANONICAL.get(name) == t for name, t in columns.items()):
        return [ds.dataset(hot, format="ipc", schema=_shape(columns))]
    groups: list[tuple[dict[str, pa.DataType], list[str]]] = []
    for path in hot:
        schema = {f.name: f.type for f in _schema(path)}
        if columns is not None:
            schema = {name: t for name, t in schema.items() if name in columns}
        for types, paths in groups:
            if all(types.get(name, t) == t for name, t in schema.items()):
                types.update(schema)
                paths.append(path)
                break
        else:
            groups.append((schema, [path]))
    return [ds.dataset(paths, format="ipc", schema=_shape(types)) for types, paths in groups]


def _shape(types: Mapping[str, pa.DataType]) -> pa.Schema:
    return pa.schema(list(types.items()))
