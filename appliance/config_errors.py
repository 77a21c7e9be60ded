"""What is wrong with a configuration, in words: where, what, and what to do about it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from appliance.config_locate import Key
from appliance.config_model import Config


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


def explain(path: Path, where: dict[Key, int], detail: ErrorDetails) -> ConfigError:
    """One error of pydantic's, of the file ``path`` with its keys at the lines ``where``."""
    loc = detail["loc"]
    problem, remedy = _words(detail)
    # an array of tables has no line of its own, but its first table has
    places = [(*loc, 0), *(loc[:n] for n in range(len(loc), 0, -1))]
    line = next((where[place] for place in places if place in where), 0)
    return ConfigError(path, line, dotted(loc), problem, remedy)


def dotted(loc: Key) -> str:
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
        return "unknown key", meant(detail["loc"])
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
    if model_of(annotation) is None:
        return "use a list, in square brackets"
    if get_origin(annotation) is tuple:
        return f"write it as [[{dotted}]], with two brackets"
    return f"write it as [{dotted}], with its keys below"


def meant(loc: Key) -> str:
    """The remedy for an unknown key: the nearest known one, or where it belongs."""
    name = str(loc[-1])
    known = _keys(loc[:-1])
    near = difflib.get_close_matches(name, known, 1, 0.6)
    if near:
        return f"did you mean {near[0]}?"
    if len(loc) > 1 and name in Config.model_fields:
        return f"{name} belongs at the top of the file, before the first [table]"
    for table, field in Config.model_fields.items():
        model = model_of(field.annotation)
        several = get_origin(field.annotation) is tuple
        if model is not None and not several and name in model.model_fields:
            return f"{name} belongs in [{table}]"
    return f"known here: {', '.join(known)}"


def _keys(loc: Key) -> list[str]:
    """The keys that the table at ``loc`` can have."""
    model = model_of(_annotation(loc))
    assert model is not None
    return list(model.model_fields)


def _annotation(loc: Key) -> Any:
    """The type of what is at ``loc``."""
    found: Any = Config
    for part in loc:
        model = model_of(found)
        if model is not None and isinstance(part, str):
            found = model.model_fields[part].annotation
        else:
            found = get_args(found)[0]
    return found


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The table that a field holds, one or many of; None where it holds values."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
