"""Laying the settings over the file: the configuration that holds, and where each key is from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from appliance.config_file import ConfigFile, validate
from appliance.config_model import Config
from appliance.settings.document import Settings, path_of
from appliance.settings.scope import leaves, put, refuse_others

Source = Literal["default", "file", "settings"]


@dataclass(frozen=True, slots=True)
class Layers:
    """The outcome; ``sources``: where the value of each dotted key is from."""

    config: Config
    sources: dict[str, Source]


def lay(file: ConfigFile, settings: Settings) -> Layers:
    """``settings`` over ``file``; raises ConfigInvalid where they cannot be used together."""
    path = path_of(file.config)
    refuse_others(settings.values, path)
    merged = copy.deepcopy(file.values)
    over = dict(leaves(settings.values))
    for key, value in over.items():
        put(merged, key, value)
    config = validate(merged, file.path.absolute().parent, path, {})
    return Layers(config, {key: _source(key, over, file.values) for key in flat(config)})


def _source(key: str, over: Mapping[str, Any], values: Any) -> Source:
    if key in over:
        return "settings"
    for name in key.split("."):
        if not isinstance(values, dict) or name not in values:
            return "default"
        values = values[name]
    return "file"


def flat(config: Config) -> dict[str, Any]:
    """The values by dotted key, as JSON has them; a list is one value. Absent tables are left out.

    >>> flat(Config())["store.retention_days"]
    30.0
    """
    found: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif value is not None:
            found[name] = value
    return found
