"""The configuration file: from TOML to a :class:`Config`, or to errors with a remedy."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from appliance.config_errors import ConfigError, ConfigInvalid, explain
from appliance.config_locate import Key, lines
from appliance.config_model import Config


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that can be used: its values as they are written, and what they amount to alone."""

    path: Path
    values: dict[str, Any]
    config: Config


def read_file(path: Path | str) -> ConfigFile:
    """The file ``path``; raises :class:`ConfigInvalid`.

    Relative paths in the file are relative to the folder that it is in.
    """
    path = Path(path)
    text = _read(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid([_syntax(path, text, error)]) from None
    config = validate(values, path.absolute().parent, path, lines(text))
    errors = _element_files(path, lines(text), config)
    if errors:
        raise ConfigInvalid(errors)
    return ConfigFile(path, values, config)


def validate(values: dict[str, Any], base: Path, blamed: Path, where: dict[Key, int]) -> Config:
    """The configuration that ``values`` are; raises :class:`ConfigInvalid`.

    ``base``: what relative paths are relative to. ``blamed``: the file that errors are of, at the
    lines ``where``.
    """
    try:
        return Config.model_validate(values, context={"base": base})
    except ValidationError as error:
        errors = [
            explain(blamed, where, detail)
            for detail in error.errors(include_url=False)
            # a default that follows from a value that is itself wrong
            if detail["type"] != "default_factory_not_called"
        ]
        raise ConfigInvalid(sorted(errors, key=lambda e: e.line)) from None


def _element_files(path: Path, where: dict[Key, int], config: Config) -> list[ConfigError]:
    """What is wrong with the files of information elements that the configuration names."""
    files = config.elements.files
    errors = [
        ConfigError(
            path,
            where.get(("elements", "files", i), 0),
            f"elements.files[{i + 1}]",
            f"there is no file {file}",
            "correct the path; it is relative to the folder of this file",
        )
        for i, file in enumerate(files)
        if not file.is_file()
    ]
    if files and not errors:
        # decoding is not needed to read a configuration without such files
        from appliance.decode.elements import Registry, RegistryError

        try:
            Registry.load(files)
        except RegistryError as error:
            problem, _, remedy = str(error).rpartition("; ")
            line = where.get(("elements", "files"), 0)
            errors.append(ConfigError(path, line, "elements.files", problem, remedy))
    return errors


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        problem, remedy = "there is no such file", "correct the path, or leave it out for defaults"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigInvalid(
            [ConfigError(path, line, "", "not UTF-8 text", "save it as UTF-8")]
        ) from None
    except OSError as error:
        problem, remedy = f"cannot be read: {error.strerror}", "correct its owner or permissions"
    raise ConfigInvalid([ConfigError(path, 0, "", problem, remedy)])


def _syntax(path: Path, text: str, error: tomllib.TOMLDecodeError) -> ConfigError:
    message = str(error)
    match = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    line = text.count("\n") + 1
    if match:
        message = message[: match.start()]
        line = int(match[1]) if match[1] else line
    remedy = 'texts need quotes: name = "value"' if "Invalid value" in message else "correct it"
    return ConfigError(path, line, "", f"not TOML: {message}", remedy)
