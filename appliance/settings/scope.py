"""Which keys may be set at run time, and where the others are changed instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_origin

from appliance.config_errors import ConfigError, ConfigInvalid, meant, model_of
from appliance.config_model import Config, Limits

SETTABLE: Final = frozenset(
    {
        "allow",
        "exporter",
        "listener",
        "metrics.exporters",
        "store.flush_seconds",
        "store.max_bytes",
        "store.reserve_bytes",
        "store.retention_days",
        *(f"limits.{name}" for name in Limits.model_fields),
    }
)
"""Dotted keys; a list is one value, whatever is in it."""

_OF_TABLES: Final = ("exporter", "listener")
_INVENTORY: Final = "change it in the inventory, and run playbooks/site.yml"
_ELSEWHERE: Final = {
    "api": (
        "where the API answers, and to whom, is not for those who may use it to change",
        _INVENTORY,
    ),
    "cluster": (
        "nodes and VIPs are also known to keepalived, HAProxy and the firewall, which must agree",
        _INVENTORY,
    ),
    "data_dir": ("a collector cannot leave its data while it runs", "change it in the file"),
    "drill": (
        "which faults drills may make, and what is good enough, is not for those who do them",
        _INVENTORY,
    ),
    "elements": (
        "files with further elements are on each node, and no part of the settings",
        _INVENTORY,
    ),
    "health": ("it is read by the process that watches the collector", _INVENTORY),
    "journal": ("the room for the journal depends on the disk of each node", _INVENTORY),
    "node": ("the node's name is part of all that it has stored", _INVENTORY),
    "receive": ("shards and their sockets are made once, at start", _INVENTORY),
}
"""By table or key of the top: why it cannot be set, and where it can be changed."""


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted ``key`` in a document in the shape of the file."""
    *tables, name = key.split(".")
    for table in tables:
        values = values.setdefault(table, {})
    values[name] = value


def leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a document in the shape of the file. Empty tables set nothing."""
    for name, value in values.items():
        if isinstance(value, Mapping) and _is_table(name):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value


def _is_table(name: str) -> bool:
    field = Config.model_fields.get(name)
    return field is not None and (
        model_of(field.annotation) is not None and get_origin(field.annotation) is not tuple
    )


def refuse_others(values: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigInvalid where ``values`` has anything that cannot be set; ``path``: its file."""
    dotted = [name for name in values if "." in name]
    errors = [
        ConfigError(path, 0, name, "unknown key", "write tables as objects, not with dots")
        for name in dotted
    ]
    errors += [
        ConfigError(path, 0, key, *words)
        for key, value in leaves({n: v for n, v in values.items() if n not in dotted})
        if (words := _refusal(key, value)) is not None
    ]
    if errors:
        raise ConfigInvalid(errors)


def _refusal(key: str, value: Any) -> tuple[str, str] | None:
    """Problem and remedy of one key, if there is a problem."""
    table, _, rest = key.partition(".")
    if key in SETTABLE:
        if value is None:
            return "null is no value", "leave the key out, so that the file's value holds"
        if not rest and not isinstance(value, list):
            return f"{value!r} is not enough here", "use a list; it replaces the file's as a whole"
        if key in _OF_TABLES and not all(isinstance(item, dict) for item in value):
            return f"{value!r} is not enough here", "use a list of objects"
        return None
    if not rest and any(name.startswith(f"{key}.") for name in SETTABLE):
        return f"{value!r} is not enough here", "use an object with the keys to set"
    if table in _ELSEWHERE:
        problem, remedy = _ELSEWHERE[table]
        return f"it cannot be set while the node runs: {problem}", remedy
    return "unknown key", meant((table, rest) if rest else (table,))
