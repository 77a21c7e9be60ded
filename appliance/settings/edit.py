"""Changing the settings by a JSON merge patch (RFC 7396)."""

from __future__ import annotations

from typing import Any

from appliance.config_errors import ConfigError, ConfigInvalid
from appliance.config_file import ConfigFile
from appliance.settings.document import Settings, path_of
from appliance.settings.layers import flat, lay
from appliance.settings.scope import leaves


def merge_patch(target: Any, patch: Any) -> Any:
    """``target`` after ``patch``: RFC 7396, section 2. Neither is changed.

    >>> merge_patch({"a": 1, "b": {"c": 2}}, {"a": None, "b": {"d": 3}})
    {'b': {'c': 2, 'd': 3}}
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def patched(settings: Settings, patch: Any, file: ConfigFile) -> Settings:
    """The next version of ``settings``; raises ConfigInvalid if it cannot be used with ``file``.

    A null in ``patch`` takes a key out of the settings, so that the file's value holds again. With
    each key whose value changes, what the file says now is remembered.
    """
    if not isinstance(patch, dict):
        problem, remedy = "a patch is an object", "use one in the shape of the configuration file"
        raise ConfigInvalid([ConfigError(path_of(file.config), 0, "", problem, remedy)])
    values = merge_patch(settings.values, patch)
    values = {name: value for name, value in values.items() if value != {}}
    before, beneath = dict(leaves(settings.values)), flat(file.config)
    edited = Settings(
        version=settings.version + 1,
        values=values,
        beneath={
            key: settings.beneath[key]
            if key in settings.beneath and before.get(key) == value
            else beneath.get(key)
            for key, value in leaves(values)
        },
    )
    lay(file, edited)
    return edited
