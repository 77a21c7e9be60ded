"""From a filter's syntax tree to a DuckDB predicate. Values are parameters, never part of the text.

A term about a column that is null does not hold, and its negation does: ``not port 80`` includes
flows without ports. SQL's third truth value is therefore ended at every negation; between the
negations it needs no care, for AND and OR are monotone and WHERE takes null as false.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from appliance.query.filter import And, Everything, Node, Not, Or, Term
from appliance.query.values import Net, Span, Text, Value


@dataclass(slots=True)
class Parameters:
    """Named parameters of one statement."""

    values: dict[str, object] = field(default_factory=dict)

    def add(self, value: object, cast: str = "") -> str:
        """The SQL that stands for ``value``."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"${name}::{cast}" if cast else f"${name}"


def predicate(node: Node, parameters: Parameters) -> str:
    """SQL that is true for the rows that ``node`` holds for; its values go to ``parameters``."""
    if isinstance(node, Everything):
        return "true"
    if isinstance(node, Not):
        return f"(({predicate(node.item, parameters)}) IS NOT TRUE)"
    if isinstance(node, And | Or):
        word = " AND " if isinstance(node, And) else " OR "
        return "(" + word.join(predicate(item, parameters) for item in node.items) + ")"
    return _term(node, parameters)


def _term(term: Term, parameters: Parameters) -> str:
    if term.op == "!=":
        return f"(({_sides(term, '=', parameters)}) IS NOT TRUE)"
    return _sides(term, term.op, parameters)


def _sides(term: Term, op: str, parameters: Parameters) -> str:
    sides = term.field.columns
    if term.side in ("src", "in"):
        sides = sides[:1]
    elif term.side in ("dst", "out"):
        sides = sides[1:]
    if term.field.collection == "map":
        key = parameters.add(term.key, "VARCHAR")
        sides = tuple(f"lower(map_extract_value({side}, {key}))" for side in sides)
        if op == "has":
            return " OR ".join(f"({side} IS NOT NULL)" for side in sides)
    word = " AND " if term.side == "both" else " OR "
    tests = [_test(term, side, op, parameters) for side in sides]
    return tests[0] if len(tests) == 1 else f"({word.join(tests)})"


def _test(term: Term, side: str, op: str, parameters: Parameters) -> str:
    cast = term.field.cast
    if term.field.collection == "list":
        listed = [_compare_list(side, value, cast, parameters) for value in term.values]
        return "(" + " OR ".join(listed) + ")"
    single = [value for value in term.values if op == "=" and _is_single(value)]
    tests = []
    if len(single) > 1:
        chosen = ", ".join(parameters.add(_lowest(value), cast) for value in single)
        tests.append(f"{side} IN ({chosen})")
    else:
        single = []
    tests += [
        _compare(side, value, op, cast, parameters) for value in term.values if value not in single
    ]
    return tests[0] if len(tests) == 1 else "(" + " OR ".join(tests) + ")"


def _compare_list(side: str, value: Value, cast: str, parameters: Parameters) -> str:
    assert isinstance(value, Span)
    if value.low == value.high:
        return f"list_contains({side}, {parameters.add(value.low, cast)})"
    low, high = parameters.add(value.low, cast), parameters.add(value.high, cast)
    return f"(len(list_filter({side}, lambda x: x BETWEEN {low} AND {high})) > 0)"


def _compare(side: str, value: Value, op: str, cast: str, parameters: Parameters) -> str:
    if op == "has":
        bits = parameters.add(_lowest(value), cast)
        return f"(({side} & {bits}) = {bits})"
    if op == "~":
        return f"({side} GLOB {parameters.add(_lowest(value), 'VARCHAR')})"
    if op == "=" and not _is_single(value):
        first, last = parameters.add(_lowest(value), cast), parameters.add(_highest(value), cast)
        return f"({side} BETWEEN {first} AND {last})"
    return f"({side} {op} {parameters.add(_lowest(value), cast)})"


def _is_single(value: Value) -> bool:
    return _lowest(value) == _highest(value)


def _lowest(value: Value) -> object:
    if isinstance(value, Net):
        return uuid.UUID(int=value.base)
    return value.text if isinstance(value, Text) else value.low


def _highest(value: Value) -> object:
    if isinstance(value, Net):
        return uuid.UUID(int=value.last)
    return value.text if isinstance(value, Text) else value.high
