"""The settings document, and its file on a node: ``<api.state_dir>/settings.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.config_errors import ConfigError, ConfigInvalid
from appliance.config_model import Config
from appliance.store.durable import replace_file

SETTINGS_FILE = "settings.json"
_MODE = 0o640
"""The collector is in the group of the file, and is another user than the API that writes it."""


class Settings(BaseModel):
    """What operators have set. Without any: version 0."""

    # an API of a later release may keep more in it than this collector knows
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    version: int = Field(default=0, ge=0)
    """Grows with each change."""
    values: dict[str, Any] = Field(default_factory=dict)
    """In the shape of the configuration file."""
    beneath: dict[str, Any] = Field(default_factory=dict)
    """By dotted key: what the file said when the key was set, so that it is known if it says
    something else now."""


def path_of(config: Config) -> Path:
    """Where the settings of a node are whose file alone is ``config``."""
    return Path(config.api.state_dir) / SETTINGS_FILE


def load(path: Path) -> Settings:
    """The document at ``path``, or none where there is no file; raises ConfigInvalid."""
    try:
        return Settings.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        remedy = "the collector's user needs to be in the group of the API"
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        problem = "is no settings document: " + (f"{where}: " if where else "") + first["msg"]
        remedy = "roll the settings back through the API, or remove the file"
    raise ConfigInvalid([ConfigError(path, 0, "", problem, remedy)])


def save(path: Path, settings: Settings) -> None:
    """Make ``settings`` the document at ``path``: the old one or the new one, never a mixture."""
    replace_file(path, settings.model_dump_json(indent=1).encode() + b"\n", _MODE)
