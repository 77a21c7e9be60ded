"""What values of the configuration file are made of: sizes, addresses, paths, names, tables.

Errors say what is wrong with a value, and what to do about it.
"""

from __future__ import annotations

import re
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12} | {
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def wrong(problem: str, remedy: str) -> PydanticCustomError:
    """An error with what to do about it, to be raised in a validator."""
    return PydanticCustomError("tandem", "{problem}", {"problem": problem, "remedy": remedy})


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if match is None or match[2].lower() not in _UNITS:
        raise wrong(f"{value!r} is not a size", 'use bytes, or a text such as "512 MiB"')
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _address(value: object) -> Address:
    try:
        return ip_address(str(value)) if isinstance(value, str | Address) else _no_address(value)
    except ValueError:
        return _no_address(value)


def _no_address(value: object) -> Address:
    raise wrong(
        f"{value!r} is not an IP address", 'use one such as "192.0.2.1" or "2001:db8::1", in quotes'
    )


def _network(value: object) -> Network:
    if isinstance(value, Network):
        return value
    try:
        if not isinstance(value, str):
            raise TypeError
        return ip_network(value)
    except (ValueError, TypeError):
        pass
    try:
        masked = str(ip_network(str(value), strict=False))
    except ValueError:
        raise wrong(
            f"{value!r} is neither an IP address nor a network",
            'use one such as "10.0.0.0/8" or "2001:db8::/32", in quotes',
        ) from None
    raise wrong(f"{value!r} has bits set beyond its prefix", f'did you mean "{masked}"?')


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise wrong(f"{value!r} is not a path", "use a text in quotes")
    base = (info.context or {}).get("base", Path())
    return Path(base, Path(value).expanduser()).absolute()


def _fit_for_a_file_name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise wrong(
            f"{value!r} cannot be a name",
            "use 1 to 63 letters, digits, dots, dashes and underscores, first and last "
            "a letter or digit",
        )
    return value


Size = Annotated[int, BeforeValidator(_size)]
IPAddress = Annotated[Address, PlainValidator(_address), PlainSerializer(str)]
IPNetwork = Annotated[Network, PlainValidator(_network), PlainSerializer(str)]
FilePath = Annotated[Path, PlainValidator(_path), PlainSerializer(str)]
FileName = Annotated[str, AfterValidator(_fit_for_a_file_name)]
"""A name that is part of names of files."""
Port = Annotated[int, Field(ge=1, le=65535)]


class Table(BaseModel):
    """A table of the file: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)
