"""The registry of information elements: what the numbers in a template mean.

The data files beside this module, and any that a user adds, are CSV with the columns ``pen``
(private enterprise number, 0 for IANA's own), ``id``, ``name``, ``type`` (abstract data type of RFC
7012, section 3.1), ``column`` and ``protocol``; the last two may be absent or empty. ``column`` is
the column of :mod:`appliance.schema` that the element fills; without it, the column is the name in
``snake_case``. ``protocol`` ``v9`` marks a meaning that a field type has in NetFlow v9 only.

Rules of ``column``:

- An element has a canonical column where it alone, unchanged, is what the column holds.
- Elements that are alternatives share one: IPv4 and IPv6 addresses, masks and next hops, TCP's and
  UDP's own port elements. The decoder takes the first that a template has.
- Where the decoder merges elements by priority or converts them (octetTotalCount or initiatorOctets
  for ``bytes``; all absolute times and those of events; MPLS labels; frame sections; sampling rates
  given as two elements), the elements keep their own names, and the decoder goes by their numbers.
- ``flowEndSysUpTime`` and ``flowStartSysUpTime`` fill the raw ``*_uptime_ms`` columns.

Sources: IANA's registry "IP Flow Information Export (IPFIX) Entities" (its unsigned256, for which
there is no integer, is octetArray here); the vendors' published field lists.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.schema import ABSTRACT_TYPES, REVERSE_PREFIX, column_type

REVERSE_PEN = 29305
"""RFC 5103, section 6.1: element ``id`` under this number is the reverse of IANA's ``id``."""
V9_RANGES = ((57472, 35632), (0x8000, 9))
"""v9 has no enterprise numbers, so ntop and Cisco add this to the ids of theirs (first, pen)."""

DATA = Path(__file__).parent / "data"
REQUIRED = ("pen", "id", "name", "type")
OPTIONAL = ("column", "protocol")


class RegistryError(ValueError):
    """A data file is not valid; the message names file, line and remedy."""


@dataclass(frozen=True, slots=True)
class Element:
    """One information element."""

    pen: int
    id: int
    name: str
    type: str
    """Abstract data type, a key of :data:`appliance.schema.ABSTRACT_TYPES`."""
    column: str


_UNUSUAL = {"IPv": "Ipv", "IPSec": "Ipsec", "MCast": "Mcast", "VRFname": "VrfName", "TEid": "Teid"}
_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")
_COLUMN = re.compile("[a-z][a-z0-9_]*")


def snake_case(name: str) -> str:
    """Column name of an element that fills no canonical column.

    >>> snake_case("postNATSourceIPv4Address"), snake_case("VRFname"), snake_case("dot1qVlanId")
    ('post_nat_source_ipv4_address', 'vrf_name', 'dot1q_vlan_id')
    """
    for word, regular in _UNUSUAL.items():
        name = name.replace(word, regular)
    if name.isupper():
        name = name.lower()
    return _BOUNDARY.sub("_", name).strip("_").lower()


class Registry:
    """Elements by number; see the module."""

    def __init__(self) -> None:
        self._elements: dict[tuple[int, int], Element] = {}
        self._v9: dict[int, Element] = {}
        self._claims: dict[str, Element] = {}

    @classmethod
    def load(cls, extra_paths: Sequence[Path] = ()) -> Registry:
        """The elements of the package, then of ``extra_paths``: a later file overrides an earlier.

        Raises :class:`RegistryError` for a file that cannot be read or is not valid.
        """
        registry = cls()
        for path in (*sorted(DATA.glob("*.csv")), *extra_paths):
            registry._add_file(path)
        return registry

    def __len__(self) -> int:
        return len(self._elements) + len(self._v9)

    def __iter__(self) -> Iterator[Element]:
        yield from self._elements.values()
        yield from self._v9.values()

    def get(self, pen: int, id: int, v9: bool = False) -> Element | None:  # noqa: A002
        """The element, or None where no file names it.

        ``v9``: the number is a field type of NetFlow v9.
        """
        if pen == REVERSE_PEN:
            return self._reverse(id)
        if v9 and id in self._v9:
            return self._v9[id]
        found = self._elements.get((pen, id))
        for first, owner in V9_RANGES if v9 else ():
            found = found or self._elements.get((owner, id - first))
        return found

    def _reverse(self, number: int) -> Element | None:
        forward = self._elements.get((0, number))
        if forward is None:
            return None
        name = f"reverse{forward.name[0].upper()}{forward.name[1:]}"
        return Element(REVERSE_PEN, number, name, forward.type, REVERSE_PREFIX + forward.column)

    def _add_file(self, path: Path) -> None:
        try:
            with path.open(encoding="utf-8", newline="") as file:
                self._add_lines(path, file)
        except (OSError, UnicodeDecodeError) as error:
            raise RegistryError(
                f"{path}: cannot be read ({error}); give a readable UTF-8 file"
            ) from error

    def _add_lines(self, path: Path, lines: Iterable[str]) -> None:
        reader = csv.reader(lines)
        header = next(reader, [])
        missing = [name for name in REQUIRED if name not in header]
        unknown = [name for name in header if name not in REQUIRED + OPTIONAL]
        if missing or unknown or len(set(header)) < len(header):
            raise RegistryError(
                f"{path}:1: the first line is {','.join(header)!r}; "
                f"write {','.join(REQUIRED + OPTIONAL)!r} (the last two may be left out)"
            )
        for row in reader:
            if not row or row[0].startswith("#"):
                continue
            try:
                self._add_row(header, row)
            except RegistryError as error:
                raise RegistryError(f"{path}:{reader.line_num}: {error}") from None

    def _add_row(self, header: list[str], row: list[str]) -> None:
        if len(row) != len(header):
            raise RegistryError(
                f"{len(row)} values for {len(header)} columns; write one value, or none, for each"
            )
        value = {key: text.strip() for key, text in zip(header, row, strict=True)}
        protocol = value.get("protocol", "")
        if protocol not in ("", "v9"):
            raise RegistryError(f"protocol {protocol!r}; write v9 or leave it empty")
        pen = _number("pen", value["pen"], 0, 2**32 - 1)
        highest = 0xFFFF if protocol else 0x7FFF
        number = _number("id", value["id"], 1, highest)
        if protocol and pen:
            raise RegistryError(f"pen {pen} with protocol v9, which has none; write pen 0")
        if value["type"] not in ABSTRACT_TYPES:
            raise RegistryError(
                f"type {value['type']!r} is not known; write one of {', '.join(ABSTRACT_TYPES)}"
            )
        if not value["name"]:
            raise RegistryError("name is empty; give the element's name")
        column = value.get("column", "")
        if not column:
            column = snake_case(value["name"])
            if column_type(column) is not None:
                raise RegistryError(
                    f"name {value['name']!r} would fill column {column!r} of the schema unasked; "
                    f"say so, or give another, in the column 'column'"
                )
        if not _COLUMN.fullmatch(column):
            raise RegistryError(
                f"column {column!r} is no column name; give one of a-z, 0-9 and _ in 'column'"
            )
        element = Element(pen, number, value["name"], value["type"], column)
        self._claim(element)
        if protocol:
            self._v9[number] = element
        else:
            self._elements[pen, number] = element

    def _claim(self, element: Element) -> None:
        """A column outside the schema has one type, whichever element it comes from."""
        if column_type(element.column) is not None:
            return
        other = self._claims.setdefault(element.column, element)
        if (other.pen, other.id) == (element.pen, element.id):
            self._claims[element.column] = element
        elif ABSTRACT_TYPES[other.type] != ABSTRACT_TYPES[element.type]:
            raise RegistryError(
                f"column {element.column!r} is of type {other.type} for element {other.id} of pen "
                f"{other.pen}, but {element.type} here; give another column"
            )


def _number(what: str, text: str, lowest: int, highest: int) -> int:
    if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
        raise RegistryError(f"{what} {text!r} is not a number from {lowest} to {highest}")
    return int(text)
