"""Drift: the file has another value beneath a setting than it had when that was set.

Somebody has changed the inventory, and sees no effect. The operator decides: :func:`adopt` keeps
the setting, knowing what the file says now; :func:`reset` drops it, and the file's value holds.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from appliance.config_errors import ConfigError, ConfigInvalid
from appliance.config_file import ConfigFile
from appliance.settings.document import Settings, path_of
from appliance.settings.layers import flat
from appliance.settings.scope import leaves, put


@dataclass(frozen=True, slots=True)
class Drift:
    """One key; values as JSON has them."""

    key: str
    setting: Any
    """What holds."""
    was: Any
    """What the file said when it was set."""
    now: Any
    """What the file says."""


def drift(settings: Settings, file: ConfigFile) -> list[Drift]:
    """The keys of ``settings`` beneath which ``file`` has changed."""
    now = flat(file.config)
    return [
        Drift(key, value, settings.beneath[key], now.get(key))
        for key, value in leaves(settings.values)
        if key in settings.beneath and settings.beneath[key] != now.get(key)
    ]


def adopt(settings: Settings, keys: Collection[str], file: ConfigFile) -> Settings:
    """The next version, in which ``keys`` stay set, and what ``file`` says now is remembered."""
    _must_be_set(settings, keys, file)
    now = flat(file.config)
    beneath = settings.beneath | {key: now.get(key) for key in keys}
    return settings.model_copy(update={"version": settings.version + 1, "beneath": beneath})


def reset(settings: Settings, keys: Collection[str], file: ConfigFile) -> Settings:
    """The next version, without ``keys``. Whether ``file`` goes with what is left is not checked:
    to drop a setting is the way out when it does not.
    """
    _must_be_set(settings, keys, file)
    values: dict[str, Any] = {}
    for key, value in leaves(settings.values):
        if key not in keys:
            put(values, key, value)
    return Settings(
        version=settings.version + 1,
        values=values,
        beneath={key: value for key, value in settings.beneath.items() if key not in keys},
    )


def _must_be_set(settings: Settings, keys: Collection[str], file: ConfigFile) -> None:
    known = dict(leaves(settings.values))
    remedy = f"set now: {', '.join(sorted(known)) or 'nothing'}"
    path = path_of(file.config)
    errors = [
        ConfigError(path, 0, key, "is not set by the settings", remedy)
        for key in keys
        if key not in known
    ]
    if errors:
        raise ConfigInvalid(errors)
