"""The configuration of this node: its file, and the settings that lie over it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from api.problems import FieldError, Problem
from appliance.config import Config, ConfigFile, ConfigInvalid, read, read_file
from appliance.settings import Layers, Settings, lay, path_of, save

log = logging.getLogger(__name__)

_WRITE_SECONDS = 2.0


class NodeConfig:
    """What is in the files, as far as it can be used. To be used from the event loop."""

    def __init__(self, path: Path | None, config: Config, used: Callable[[Config], None]) -> None:
        """``path``: of the configuration file; None where the node runs on defaults. ``used`` is
        called with each configuration that holds from then on.
        """
        self._path = path
        self._used = used
        self.config = config
        """With the settings that were applied last."""
        self.settings = Settings()
        if path is not None:
            self.settings = read(path).settings

    def file(self) -> ConfigFile:
        """The file as it is now: Ansible may have written it since. Raises a problem."""
        if self._path is None:
            raise _impossible("this node runs on defaults: start it with a file")
        try:
            return read_file(self._path)
        except ConfigInvalid as invalid:
            raise _impossible(f"the file cannot be used: {invalid}") from None

    def lay(self, settings: Settings) -> Layers:
        """``settings`` over the file; raises a problem where they cannot be used together."""
        try:
            return lay(self.file(), settings)
        except ConfigInvalid as invalid:
            raise invalid_settings(invalid) from None

    async def apply(self, settings: Settings) -> Config:
        """Make them those of this node, which the collector follows; raises a problem."""
        config = self.lay(settings).config
        path = path_of(config)
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                await asyncio.to_thread(save, path, settings)
        except (OSError, TimeoutError) as error:
            reason = getattr(error, "strerror", None) or f"not within {_WRITE_SECONDS:g} s"
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "not-written",
                "The change cannot be written",
                f"{path}: {reason}",
            ) from None
        self.config, self.settings = config, settings
        self._used(config)
        return config


def invalid_settings(invalid: ConfigInvalid) -> Problem:
    """The problem of settings that cannot be used: which key, why, and what to do."""
    errors = [
        FieldError(field=error.key or "settings", reason=f"{error.problem}; {error.remedy}")
        for error in invalid.errors
    ]
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid-settings",
        "The settings cannot be used",
        "; ".join(f"{error.field}: {error.reason}" for error in errors),
        errors,
    )


def _impossible(detail: str) -> Problem:
    return Problem(HTTPStatus.CONFLICT, "no-settings", "Nothing can be set on this node", detail)
