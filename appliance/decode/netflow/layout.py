"""Layouts: what a template says about its records, shared by all templates that say the same.

Thousands of exporters of one make send the same few field lists; a layout is interned by the bytes
of its field list, so that state and compiled plans grow with the kinds of record, not with the
number of exporters, and the data sets of all of them are decoded together.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

VARIABLE = 65535
"""Field length that means: the length stands in the record (RFC 7011, section 7)."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field specifier with the place of its value in a record.

    ``segment`` numbers the parts of the record: runs of fixed-length fields and single
    variable-length fields; ``offset`` is the byte offset in a fixed run.
    """

    pen: int
    id: int
    length: int
    scope: bool
    segment: int
    offset: int
    repeat: int = 1
    """The how-many-th field of its element in the record this is."""

    @property
    def key(self) -> str:
        """How the field is named where no registry names it; no two of a record share a key."""
        name = f"{max(self.pen, 0)}.{self.id}"
        return name if self.repeat == 1 else f"{name}_{self.repeat}"


@dataclass(slots=True, eq=False)
class Layout:
    """The records of one field list; ``segments`` are byte lengths, -1 for a variable field."""

    protocol: int
    scopes: int
    """Number of scope fields; 0 for flow records; -1 for options without any scope (v9)."""
    raw: bytes
    fields: tuple[Field, ...]
    segments: tuple[int, ...]
    minimum: int
    """Bytes of the shortest record: the length of every record if ``fixed``."""
    plan: Any = field(default=None, repr=False)
    """What semantics.compile_plan made of it, at first use."""

    @property
    def fixed(self) -> bool:
        """Whether all records are as long."""
        return -1 not in self.segments

    @property
    def options(self) -> bool:
        """Whether the records are options data."""
        return self.scopes != 0


def build(protocol: int, scopes: int, raw: bytes, specifiers: list[tuple[int, int, int]]) -> Layout:
    """The layout of ``(pen, id, length)`` specifiers, the first ``scopes`` of which are scopes.

    Fields of length 0 carry nothing and are left out.
    """
    fields: list[Field] = []
    segments: list[int] = []
    count: Counter[tuple[int, int]] = Counter()
    minimum = 0
    open_run = False
    for position, (pen, number, length) in enumerate(specifiers):
        if length == 0:
            continue
        if length == VARIABLE:
            segments.append(-1)
            open_run = False
            offset = 0
            minimum += 1
        else:
            if not open_run:
                segments.append(0)
                open_run = True
            offset = segments[-1]
            segments[-1] += length
            minimum += length
        count[pen, number] += 1
        segment, repeat = len(segments) - 1, count[pen, number]
        fields.append(Field(pen, number, length, position < scopes, segment, offset, repeat))
    return Layout(protocol, scopes, raw, tuple(fields), tuple(segments), minimum)


@dataclass(slots=True)
class LayoutTable:
    """Interns layouts by dense number; a number is reused when no template refers to it."""

    layouts: list[Layout | None] = field(default_factory=list)
    _numbers: dict[tuple[int, int, bytes], int] = field(default_factory=dict)
    _references: list[int] = field(default_factory=list)
    _free: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> Layout:
        layout = self.layouts[number]
        assert layout is not None
        return layout

    def find(self, protocol: int, scopes: int, raw: bytes) -> int:
        """The number of a known layout, or -1."""
        return self._numbers.get((protocol, scopes, raw), -1)

    def add(self, layout: Layout) -> int:
        """The number of ``layout``, which is not known yet."""
        if self._free:
            number = self._free.pop()
            self.layouts[number] = layout
            self._references[number] = 0
        else:
            number = len(self.layouts)
            self.layouts.append(layout)
            self._references.append(0)
        self._numbers[layout.protocol, layout.scopes, layout.raw] = number
        return number

    def hold(self, number: int) -> None:
        """One more template refers to ``number``."""
        self._references[number] += 1

    def drop(self, number: int) -> None:
        """One template less refers to ``number``; with the last one, it goes."""
        self._references[number] -= 1
        if self._references[number] <= 0:
            layout = self[number]
            del self._numbers[layout.protocol, layout.scopes, layout.raw]
            self.layouts[number] = None
            self._free.append(number)
