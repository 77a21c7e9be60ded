"""The configuration of a node: built-in defaults, under the file, under the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from appliance import settings as settings_layer
from appliance.config_cluster import Api, Cluster, Vip
from appliance.config_errors import ConfigError, ConfigInvalid
from appliance.config_file import ConfigFile, read_file
from appliance.config_model import Config, Exporter, Limits, Listener
from appliance.config_types import Address, Network
from appliance.settings import Settings

__all__ = [
    "Address",
    "Api",
    "Cluster",
    "Config",
    "ConfigError",
    "ConfigFile",
    "ConfigInvalid",
    "Exporter",
    "Limits",
    "Listener",
    "Loaded",
    "Network",
    "Vip",
    "check",
    "default",
    "load",
    "read",
    "read_file",
]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where it comes from."""

    config: Config
    """What holds."""
    file: ConfigFile
    settings: Settings
    """Those in ``config``: none where they cannot be used."""
    problem: str = ""
    """Why settings that are there cannot be used."""


def default() -> Config:
    """What holds without any file."""
    return Config()


def check(path: Path | str) -> list[ConfigError]:
    """All that is wrong with the file ``path``, settings aside; empty if it can be used."""
    try:
        read_file(path)
    except ConfigInvalid as invalid:
        return invalid.errors
    return []


def load(path: Path | str) -> Config:
    """The configuration in the file ``path``, under its settings; see :func:`read`."""
    return read(path).config


def read(path: Path | str) -> Loaded:
    """The file ``path``, and over it the settings; raises :class:`ConfigInvalid` for the file.

    Settings that cannot be used with the file are left out as a whole: a node collects by its file
    rather than not at all.
    """
    file = read_file(path)
    try:
        found = settings_layer.load(settings_layer.path_of(file.config))
        return Loaded(settings_layer.lay(file, found).config, file, found)
    except ConfigInvalid as invalid:
        problem = "; ".join(str(error) for error in invalid.errors)
        return Loaded(file.config, file, Settings(), problem)
