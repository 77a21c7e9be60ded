"""On which line of a TOML text each key and array item is.

Parsers of TOML give values without places. This scans a text that a parser has already accepted,
so it may trust the syntax, and only keeps track of where keys begin.
"""

from __future__ import annotations

import tomllib

Key = tuple[str | int, ...]


def lines(text: str) -> dict[Key, int]:
    r"""Line numbers, from 1, by path; items of arrays are integers in the path.

    >>> lines("a = 1\n[[b]]\nc = [1,\n2]")
    {('a',): 1, ('b', 0): 2, ('b', 0, 'c'): 3, ('b', 0, 'c', 0): 3, ('b', 0, 'c', 1): 4}
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return scanner.found


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Key, int] = {}
        self.counts: dict[Key, int] = {}

    def document(self) -> None:
        table: Key = ()
        while self.skip(" \t\n"):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)

    def header(self) -> Key:
        """``[a.b]`` or ``[[a.b]]``: the path that the following keys belong to."""
        start = self.at
        array = self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        names = self.key()
        self.at += 2 if array else 1
        path: Key = ()
        for i, name in enumerate(names):
            path += (name,)
            if array and i == len(names) - 1:
                self.counts[path] = self.counts.get(path, -1) + 1
            if path in self.counts:  # a table within the last item of an array of tables
                path += (self.counts[path],)
        self.note(path, start)
        return path

    def pair(self, table: Key) -> None:
        start = self.at
        path = table + self.key()
        self.note(path, start)
        self.at += 1  # the equals sign
        self.value(path)

    def key(self) -> Key:
        """A dotted key; leaves the place at the character after it."""
        parts: list[str] = []
        while True:
            self.skip(" \t")
            if self.text[self.at] in "\"'":
                start = self.at
                self.string()
                parts.append(str(tomllib.loads(f"x = {self.text[start : self.at]}")["x"]))
            else:
                start = self.at
                while self.text[self.at] not in " \t.=]":
                    self.at += 1
                parts.append(self.text[start : self.at])
            self.skip(" \t")
            if self.text[self.at] != ".":
                return tuple(parts)
            self.at += 1

    def value(self, path: Key) -> None:
        self.skip(" \t")
        first = self.text[self.at]
        if first in "\"'":
            self.string()
        elif first == "[":
            self.array(path)
        elif first == "{":
            self.inline(path)
        else:
            while self.at < len(self.text) and self.text[self.at] not in ",]}#\n":
                self.at += 1

    def array(self, path: Key) -> None:
        self.at += 1
        item = 0
        while self.skip(" \t\n,") and self.text[self.at] != "]":
            self.note((*path, item), self.at)
            self.value((*path, item))
            item += 1
        self.at += 1

    def inline(self, path: Key) -> None:
        self.at += 1
        while self.skip(" \t\n,") and self.text[self.at] != "}":
            self.pair(path)
        self.at += 1

    def string(self) -> None:
        quote = self.text[self.at]
        fence = quote * 3 if self.text.startswith(quote * 3, self.at) else quote
        self.at += len(fence)
        while not self.text.startswith(fence, self.at):
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        self.at += len(fence)
        while len(fence) == 3 and self.text.startswith(quote, self.at):
            self.at += 1  # up to two quotes may precede the closing three

    def skip(self, characters: str) -> bool:
        """Pass blanks and, where lines may end, comments; False at the end of the text."""
        while self.at < len(self.text):
            here = self.text[self.at]
            if here == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif here in characters:
                self.at += 1
            else:
                return True
        return False

    def note(self, path: Key, at: int) -> None:
        self.found.setdefault(path, self.text.count("\n", 0, at) + 1)
