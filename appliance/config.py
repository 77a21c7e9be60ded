"""Reading the configuration: from a TOML file to a :class:`Config`, or to errors with a remedy."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from appliance.config_cluster import Api, Cluster, Vip
from appliance.config_locate import Key, lines
from appliance.config_model import Config, Exporter, Limits, Listener
from appliance.config_types import Address, Network

__all__ = [
    "Address",
    "Api",
    "Cluster",
    "Config",
    "ConfigError",
    "ConfigInvalid",
    "Exporter",
    "Limits",
    "Listener",
    "Network",
    "Vip",
    "check",
    "default",
    "load",
]


@dataclass(frozen=True, slots=True)
class ConfigError:
    """One thing that is wrong, and what to do about it."""

    file: Path
    line: int
    """From 1; 0 where it is not a matter of one line."""
    key: str
    """Dotted path such as ``listener[2].port``; empty for the file as a whole."""
    problem: str
    remedy: str

    def __str__(self) -> str:
        """``tandem.toml:7: receive.batch: 0 is below 1; use at least 1``."""
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return where + (f"{self.key}: " if self.key else "") + f"{self.problem}; {self.remedy}"


class ConfigInvalid(Exception):  # noqa: N818 - an outcome with all its errors, not one error
    """A file that cannot be used; ``errors`` has at least one entry."""

    def __init__(self, errors: list[ConfigError]) -> None:
        super().__init__("\n".join(str(e) for e in errors))
        self.errors = errors


def default() -> Config:
    """What holds without any file."""
    return Config()


def check(path: Path | str) -> list[ConfigError]:
    """All that is wrong with the file ``path``; empty if it can be used."""
    try:
        load(path)
    except ConfigInvalid as invalid:
        return invalid.errors
    return []


def load(path: Path | str) -> Config:
    """The configuration in the file ``path``; raises :class:`ConfigInvalid`.

    Relative paths in the file are relative to the folder that it is in.
    """
    path = Path(path)
    text = _read(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid([_syntax(path, text, error)]) from None
    try:
        config = Config.model_validate(values, context={"base": path.absolute().parent})
    except ValidationError as error:
        where = lines(text)
        errors = [
            _explain(path, where, detail)
            for detail in error.errors(include_url=False)
            # a default that follows from a value that is itself wrong
            if detail["type"] != "default_factory_not_called"
        ]
        raise ConfigInvalid(sorted(errors, key=lambda e: e.line)) from None
    errors = _element_files(path, lines(text), config)
    if errors:
        raise ConfigInvalid(errors)
    return config


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


def _explain(path: Path, where: dict[Key, int], detail: ErrorDetails) -> ConfigError:
    loc = detail["loc"]
    problem, remedy = _words(detail)
    # an array of tables has no line of its own, but its first table has
    places = [(*loc, 0), *(loc[:n] for n in range(len(loc), 0, -1))]
    line = next((where[place] for place in places if place in where), 0)
    return ConfigError(path, line, _dotted(loc), problem, remedy)


def _dotted(loc: Key) -> str:
    """A path as users count: the second listener is ``listener[2]``."""
    text = ""
    for part in loc:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


_BOUNDS = {
    "greater_than_equal": ("is below {ge}", "use {ge} or more"),
    "greater_than": ("is not above {gt}", "use more than {gt}"),
    "less_than_equal": ("is above {le}", "use {le} or less"),
}
_TYPES = {
    "int_type": "use a whole number, without quotes",
    "int_from_float": "use a whole number",
    "float_type": "use a number, without quotes",
    "bool_type": "use true or false, without quotes",
    "string_type": "use a text, in quotes",
    "tuple_type": "use a list, in square brackets",
    "model_type": "use a table with keys",
}


def _words(detail: ErrorDetails) -> tuple[str, str]:
    """Problem and remedy of one validation error."""
    kind, value = detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind == "tandem":
        return str(context["problem"]), str(context["remedy"])
    if kind == "extra_forbidden":
        return "unknown key", _meant(detail["loc"])
    if kind == "missing":
        return "missing", "add it"
    if kind == "literal_error":
        return f"{value!r} is not known", f"use {context['expected']}"
    if kind in _BOUNDS:
        problem, remedy = _BOUNDS[kind]
        return f"{value!r} {problem.format(**context)}", remedy.format(**context)
    if kind in _TYPES:
        if kind in ("tuple_type", "model_type"):
            return f"{value!r} is not enough here", _tables(detail["loc"])
        return f"{value!r} is of the wrong type", _TYPES[kind]
    return detail["msg"], "correct it"


def _tables(loc: Key) -> str:
    """How to write a table, or a list, that is missing at ``loc``."""
    dotted = ".".join(str(part) for part in loc if isinstance(part, str))
    annotation = _annotation(loc)
    if _model(annotation) is None:
        return "use a list, in square brackets"
    if get_origin(annotation) is tuple:
        return f"write it as [[{dotted}]], with two brackets"
    return f"write it as [{dotted}], with its keys below"


def _meant(loc: Key) -> str:
    """The remedy for an unknown key: the nearest known one, or where it belongs."""
    name = str(loc[-1])
    known = _keys(loc[:-1])
    near = difflib.get_close_matches(name, known, 1, 0.6)
    if near:
        return f"did you mean {near[0]}?"
    if len(loc) > 1 and name in Config.model_fields:
        return f"{name} belongs at the top of the file, before the first [table]"
    for table, field in Config.model_fields.items():
        model = _model(field.annotation)
        several = get_origin(field.annotation) is tuple
        if model is not None and not several and name in model.model_fields:
            return f"{name} belongs in [{table}]"
    return f"known here: {', '.join(known)}"


def _keys(loc: Key) -> list[str]:
    """The keys that the table at ``loc`` can have."""
    model = _model(_annotation(loc))
    assert model is not None
    return list(model.model_fields)


def _annotation(loc: Key) -> Any:
    """The type of what is at ``loc``."""
    found: Any = Config
    for part in loc:
        model = _model(found)
        if model is not None and isinstance(part, str):
            found = model.model_fields[part].annotation
        else:
            found = get_args(found)[0]
    return found


def _model(annotation: Any) -> type[BaseModel] | None:
    """The table that a field holds, one or many of; None where it holds values."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
