"""Settings: what operators set through the API at run time, as a layer over the configuration file.

The order of precedence is default < file < settings. The API keeps one
:class:`~appliance.settings.document.Settings` on all nodes and writes it beside its state; the
collector reads it at start and follows it. Nothing here does I/O but
:mod:`~appliance.settings.document`: :mod:`~appliance.settings.scope` says what may be set,
:mod:`~appliance.settings.layers` lays it over the file, :mod:`~appliance.settings.edit` changes it,
:mod:`~appliance.settings.drift` tells where the file has moved on beneath it, and
:mod:`~appliance.settings.changes` what a change does to a collector that runs.
"""

from appliance.settings.changes import Change, Effect, diff
from appliance.settings.document import Settings, load, path_of, save
from appliance.settings.drift import Drift, adopt, drift, reset
from appliance.settings.edit import merge_patch, patched
from appliance.settings.layers import Layers, Source, lay
from appliance.settings.scope import SETTABLE

__all__ = [
    "SETTABLE",
    "Change",
    "Drift",
    "Effect",
    "Layers",
    "Settings",
    "Source",
    "adopt",
    "diff",
    "drift",
    "lay",
    "load",
    "merge_patch",
    "patched",
    "path_of",
    "reset",
    "save",
]
