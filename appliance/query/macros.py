"""SQL functions for people: addresses, MACs, protocols and flags as text, networks as conditions.

All but ``addr`` are macros, which DuckDB expands and runs on whole vectors; ``addr`` reads text and
is mostly given constants, which DuckDB folds, so it is a Python function.
"""

from __future__ import annotations

import uuid

import duckdb

from appliance.query.terms import PROTOCOL_NAMES, SAMPLING_KNOWN
from appliance.query.values import FLAG_LETTERS, Net, read_net
from appliance.schema import ExportProtocol, SamplingSource


def _ipv6() -> str:
    """RFC 5952: no leading zeros, and ``::`` for the first longest run of two or more zero groups.

    The eight groups are wrapped in colons first, so that every run looks the same wherever it is.
    """
    hexadecimal = "replace(x::VARCHAR, '-', '')"
    groups = f"':' || regexp_replace({hexadecimal}, '(....)', '\\1:', 'g')"
    wrapped = f"regexp_replace({groups}, ':0{{1,3}}', ':', 'g')"
    cases = " ".join(
        f"WHEN contains(w, '{':0' * run}:') THEN regexp_replace(w, '{':0' * run}:', '::')"
        for run in range(8, 1, -1)
    )
    # the wrapping colons go, those of a '::' at either end stay
    return (
        "list_extract(list_transform(list_transform("
        f"[{wrapped}], lambda w: CASE {cases} ELSE w END), "
        "lambda s: regexp_replace(regexp_replace(s, '^:([^:])', '\\1'), '([^:]):$', '\\1')), 1)"
    )


def _ipv4() -> str:
    low = "(x::UHUGEINT & 4294967295)::UINTEGER"
    parts = [f"({low} >> {shift} & 255)" for shift in (24, 16, 8, 0)]
    return " || '.' || ".join(parts)


def _case(column: str, names: dict[int, str]) -> str:
    cases = " ".join(f"WHEN {number} THEN '{name}'" for number, name in names.items())
    return f"CASE {column} {cases} ELSE {column}::VARCHAR END"


def _flags() -> str:
    letters = " || ".join(
        f"CASE WHEN x >> {bit} & 1 = 1 THEN '{letter}' ELSE '' END"
        for bit, letter in reversed(list(enumerate(FLAG_LETTERS)))
    )
    return f"CASE WHEN x IS NULL THEN NULL WHEN x & {2 ** len(FLAG_LETTERS) - 1} = 0 THEN '.' ELSE {letters} END"  # noqa: E501


_MAC = (
    "regexp_replace(printf('%012x', x::BIGINT), '(..)(..)(..)(..)(..)(..)', "
    "'\\1:\\2:\\3:\\4:\\5:\\6')"
)

RATE = f"CASE WHEN {SAMPLING_KNOWN} THEN sampling_rate ELSE 1 END"
"""SQL: what to multiply a row's counters by."""

MACROS: dict[str, str] = {
    "ip(x)": f"CASE WHEN x::UHUGEINT >> 32 = 65535 THEN {_ipv4()} ELSE {_ipv6()} END",
    "mac(x)": _MAC,
    "is_ipv4(x)": "x::UHUGEINT >> 32 = 65535",
    "in_net(x, net)": "x BETWEEN net_first(net) AND net_last(net)",
    "protocol_name(x)": _case("x", PROTOCOL_NAMES),
    "export_name(x)": _case("x", {int(p): p.name.lower() for p in ExportProtocol}),
    "sampling_source_name(x)": _case("x", {int(s): s.name.lower() for s in SamplingSource}),
    "flags(x)": _flags(),
    "utc(x)": "make_timestamp_ns(x)",
}
"""Body by signature. ``x`` is an address, a MAC, a number of the schema's, or ns since 1970."""


def _net(text: str) -> Net:
    try:
        return read_net(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not an address or a network: {error}") from None


def _addr(text: str) -> uuid.UUID:
    return uuid.UUID(int=_net(text).base)


def _last(text: str) -> uuid.UUID:
    return uuid.UUID(int=_net(text).last)


def install(connection: duckdb.DuckDBPyConnection) -> None:
    """Define them all in ``connection``'s database."""
    for name, function in (("addr", _addr), ("net_first", _addr), ("net_last", _last)):
        connection.create_function(name, function, ["VARCHAR"], "UUID")
    for signature, body in MACROS.items():
        connection.execute(f"CREATE MACRO {signature} AS {body}")
