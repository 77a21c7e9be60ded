"""SQL of the user's own: one statement, which only reads."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from appliance.query.engine import EVER, Engine, QueryError, Window
from appliance.store.files import TABLES


def sql(engine: Engine, statement: str, window: Window = EVER) -> pa.Table:
    """The rows of one SELECT (or EXPLAIN, DESCRIBE …) over the tables flows, counters and options.

    The tables have the rows of ``window``. Statements that write are refused.
    """
    try:
        statements = duckdb.extract_statements(statement)
    except duckdb.Error as error:
        raise QueryError(str(error)) from None
    if len(statements) != 1:
        raise QueryError(f"one statement at a time, not {len(statements)}")
    if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise QueryError(
            f"only SELECT is allowed, not {statements[0].type.name}: the store is read, not written"
        )
    return engine.execute(statement, window=window, tables=TABLES, bounded=True)
