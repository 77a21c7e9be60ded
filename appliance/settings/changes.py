"""What differs between two configurations, and what it takes for a collector to use the new one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from appliance.config_model import Config
from appliance.settings.layers import flat

Effect = Literal["live", "restart"]

_AT_START: Final = ("data_dir", "node", "receive", "health.directory")
"""What the collector makes something of at its start that cannot become something else."""
_OF_OTHERS: Final = ("api", "cluster", "health")
"""What other processes of the node read at their start, and the collector not at all."""


@dataclass(frozen=True, slots=True)
class Change:
    """One dotted key that differs; values as JSON has them, None where there is none."""

    key: str
    before: Any
    after: Any
    effect: Effect
    """``restart``: of the collector, or of the other process that reads it."""


def diff(before: Config, after: Config) -> list[Change]:
    """All keys whose values differ, by name."""
    old, new = flat(before), flat(after)
    return [
        Change(
            key,
            old.get(key),
            new.get(key),
            "restart" if _within(key, _AT_START + _OF_OTHERS) else "live",
        )
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def pending_restart(started: Config, wanted: Config) -> list[str]:
    """The keys of ``wanted`` that a collector that began with ``started`` cannot use yet."""
    return [c.key for c in diff(started, wanted) if _within(c.key, _AT_START)]


def usable(started: Config, wanted: Config) -> Config:
    """``wanted``, but for what needs a restart."""
    return wanted.model_copy(
        update={"data_dir": started.data_dir, "node": started.node, "receive": started.receive}
    )


def for_workers(config: Config) -> dict[str, Any]:
    """What worker processes make of a configuration: they are replaced when it changes."""
    part = config.model_dump(
        mode="json", include={"listener", "allow", "limits", "journal", "elements"}
    )
    part["flush_seconds"] = config.store.flush_seconds
    # names are for those who look at the flow records
    part["rates"] = {str(e.address): e.sampling_rate for e in config.exporter if e.sampling_rate}
    return part


def for_maintenance(config: Config) -> dict[str, Any]:
    """What the maintenance process makes of it."""
    return config.store.model_dump(include={"retention_days", "max_bytes", "reserve_bytes"})


def _within(key: str, tables: tuple[str, ...]) -> bool:
    return any(key == table or key.startswith(f"{table}.") for table in tables)
