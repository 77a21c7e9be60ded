"""The filter language, in the manner of nfdump and tcpdump: text → syntax tree.

    src net 10.0.0.0/8 and dst port 443
    not (proto icmp or port in [53 123]) and bytes > 1m

A filter is a tree of And, Or and Not over :class:`Term`. ``parse(str(tree)) == tree`` for every
tree. Turning a tree into SQL is the business of :mod:`appliance.query.predicate`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import pyarrow as pa

from appliance.query import values
from appliance.query.terms import (
    BARE,
    FIRST_WORDS,
    LONGEST_PHRASE,
    PHRASES,
    Field,
    Phrase,
    column_field,
    phrase_of,
)
from appliance.query.values import Value
from appliance.schema import CANONICAL

MAX_DEPTH = 100
"""Nested parentheses and ``not``: more is an error, not a deep recursion."""
MAX_LENGTH = 65536


class FilterError(ValueError):
    """A filter that cannot be understood: what, where, and what was expected."""

    def __init__(self, message: str, text: str, at: int) -> None:
        self.message = message
        self.text = text
        self.at = at
        super().__init__(f"{message}\n  {self._line()}\n  {' ' * self._column()}^")

    def _start(self) -> int:
        return self.text.rfind("\n", 0, self.at) + 1

    def _line(self) -> str:
        return self.text[self._start() :].split("\n")[0].replace("\t", " ")

    def _column(self) -> int:
        return self.at - self._start()


@dataclass(frozen=True, slots=True)
class Everything:
    """The filter that every row passes: an empty text, or ``any``."""

    def __str__(self) -> str:
        return "any"


@dataclass(frozen=True, slots=True)
class Term:
    """A field compared with values; several values mean any of them.

    ``side``: ``src``, ``dst``, ``in``, ``out``, ``both``, or empty for either.
    ``op``: ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``~`` (a pattern), ``has`` (flag bits set,
    or a key that is there).
    """

    field: Field
    side: str
    op: str
    values: tuple[Value, ...]
    key: str = ""
    """The key in a map column."""

    def __str__(self) -> str:
        parts = [phrase_of(self.field, self.side)]
        if self.field.collection == "map":
            parts.append(values.quote(self.key))
        if self.op == "has" and not self.values:
            return " ".join(parts)
        if self.op not in ("=", "has") or (self.op == "=" and self._equals_is_written()):
            parts.append(self.op)
        written = [self.field.kind.write(value) for value in self.values]
        parts.append(written[0] if len(written) == 1 else f"in [{' '.join(written)}]")
        return " ".join(parts)

    def _equals_is_written(self) -> bool:
        return self.field.kind is values.FLAGS or self.field.collection == "map"


@dataclass(frozen=True, slots=True)
class Not:
    """Rows that ``item`` does not hold for; a term about an absent column does not hold."""

    item: Node

    def __str__(self) -> str:
        return f"not {_group(self.item, And, Or)}"


@dataclass(frozen=True, slots=True)
class And:
    """All of two or more."""

    items: tuple[Node, ...]

    def __str__(self) -> str:
        return " and ".join(_group(item, And, Or) for item in self.items)


@dataclass(frozen=True, slots=True)
class Or:
    """Any of two or more."""

    items: tuple[Node, ...]

    def __str__(self) -> str:
        return " or ".join(_group(item, Or) for item in self.items)


Node = Everything | Term | Not | And | Or


def _group(node: Node, *looser: type) -> str:
    return f"({node})" if isinstance(node, looser) else str(node)


def reads(node: Node) -> frozenset[str]:
    """The names of the columns that ``node`` looks at."""
    if isinstance(node, Term):
        return node.field.reads
    if isinstance(node, Not):
        return reads(node.item)
    if isinstance(node, And | Or):
        return frozenset().union(*(reads(item) for item in node.items))
    return frozenset()


# --- words ---

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<text>"(?:[^"\\]|\\.)*")
      | (?P<op><=|>=|!=|==|<>|=|<|>|~)
      | (?P<and>&&)
      | (?P<or>\|\|)
      | (?P<mark>[()\[\],!])
      | (?P<word>[^\s()\[\],!<>=~"&|]+)""",
    re.VERBOSE | re.DOTALL,
)
_OPS = {"==": "=", "<>": "!="}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    """``text``, ``op``, ``mark``, ``word`` or ``end``."""
    text: str
    at: int

    @property
    def word(self) -> str:
        return self.text.lower() if self.kind == "word" else ""

    def shown(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text)


def _tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            problem = "a text without its closing quote" if text[at] == '"' else "not understood"
            raise FilterError(f"{problem} at {text[at]!r}", text, at)
        kind, word = str(match.lastgroup), match[0]
        if kind == "text":
            word = re.sub(r"\\(.)", r"\1", word[1:-1], flags=re.DOTALL)
        elif kind in ("and", "or"):
            kind, word = "word", kind
        elif word == "!":
            kind, word = "word", "not"
        if kind != "space":
            tokens.append(_Token(kind, _OPS.get(word, word) if kind == "op" else word, at))
        at = match.end()
    return [*tokens, _Token("end", "", len(text.rstrip()))]


# --- grammar ---


def parse(text: str, columns: Mapping[str, pa.DataType] = CANONICAL) -> Node:
    """The tree of ``text``; ``columns`` are those that terms may name.

    >>> str(parse("src host 10.0.0.1 && !(tcp or udp)"))
    'src net 10.0.0.1 and not (proto tcp or proto udp)'
    """
    if len(text) > MAX_LENGTH:
        raise FilterError(f"longer than {MAX_LENGTH} characters", text[:60], 0)
    parser = _Parser(text, columns)
    if parser.token.kind == "end":
        return Everything()
    node = parser.either()
    if parser.token.kind != "end":
        parser.fail(f"expected 'and', 'or' or the end, not {parser.token.shown()}")
    return node


def _one_of(words: list[str]) -> str:
    return words[0] if len(words) == 1 else "one of " + ", ".join(words)


@dataclass(slots=True)
class _Parser:
    """Recursive descent: either → both → single → term."""

    text: str
    columns: Mapping[str, pa.DataType]
    tokens: list[_Token] = field(init=False)
    position: int = 0
    depth: int = 0

    def __post_init__(self) -> None:
        self.tokens = _tokens(self.text)

    @property
    def token(self) -> _Token:
        return self.tokens[self.position]

    def peek(self, ahead: int) -> _Token:
        return self.tokens[min(self.position + ahead, len(self.tokens) - 1)]

    def take(self) -> _Token:
        token = self.token
        if token.kind != "end":
            self.position += 1
        return token

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        raise FilterError(message, self.text, self.token.at if at is None else at)

    def either(self) -> Node:
        items = [self.both()]
        while self.token.word == "or":
            self.take()
            items.append(self.both())
        return items[0] if len(items) == 1 else Or(tuple(items))

    def both(self) -> Node:
        items = [self.single()]
        while self.token.word == "and":
            self.take()
            items.append(self.single())
        return items[0] if len(items) == 1 else And(tuple(items))

    def single(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"nested deeper than {MAX_DEPTH}")
        try:
            if self.token.word == "not":
                self.take()
                return Not(self.single())
            if (self.token.kind, self.token.text) == ("mark", "("):
                opened = self.take()
                node = self.either()
                if (self.token.kind, self.token.text) != ("mark", ")"):
                    self.fail(
                        f"expected ')' for the '(' at character {opened.at + 1}, "
                        f"not {self.token.shown()}"
                    )
                self.take()
                return node
            return self.term()
        finally:
            self.depth -= 1

    def term(self) -> Node:
        bare = self.bare()
        if bare is not None:
            return bare
        found, side = self.phrase()
        key = ""
        if found.collection == "map":
            key = self.take_value('a key such as "9.12345"').text
        op = ""
        if self.token.kind == "op":
            op = self.operator(found)
        listed = self.token.word == "in" and self.peek(1).text == "["
        if found.collection == "map" and not op and not listed:
            return Term(found, side, "has", (), key)
        if listed:
            self.take()
        if (self.token.kind, self.token.text) == ("mark", "["):
            if op not in ("", "=", "!="):
                self.fail(f"a list can be compared with = or !=, not with {op}")
            taken = self.list_of(found)
        else:
            taken = (self.value(found),)
        default = "has" if found.kind is values.FLAGS else "="
        op = op or default
        if op in ("<", "<=", ">", ">=") and any(
            isinstance(v, values.Span) and v.low != v.high for v in taken
        ):
            self.fail(
                "a range can be compared with = or != only", self.tokens[self.position - 1].at
            )
        return Term(found, side, op, taken, key)

    def bare(self) -> Node | None:
        """Terms of one word that say field and value at once."""
        word, following = self.token.word, self.peek(1)
        if word == "any":
            self.take()
            return Everything()
        begins_phrase = any((word, following.word) == phrase[:2] for phrase in PHRASES)
        if word not in BARE or begins_phrase:
            return None
        self.take()
        found, side = PHRASES[BARE[word],]
        return Term(found, side, "=", (found.kind.read(word),))

    def phrase(self) -> tuple[Field, str]:
        """The longest phrase that begins here, or a column's name."""
        start = self.token
        for length in range(LONGEST_PHRASE, 0, -1):
            words = tuple(self.peek(i).word for i in range(length))
            if words in PHRASES:
                self.position += length
                return PHRASES[words]
        if start.word == "column":
            self.take()
            start = self.token
        if start.kind == "word":
            found = column_field(start.text, self.columns)
            if found is not None:
                self.take()
                return found, ""
        self.continued()
        self.fail(self.unknown(start))

    def continued(self) -> None:
        """Fail at the word that does not go on with a phrase, if one has begun."""
        said: Phrase = ()
        while True:
            longer = (*said, self.peek(len(said)).word)
            if not any(phrase[: len(longer)] == longer for phrase in PHRASES):
                break
            said = longer
        if said:
            following = sorted({p[len(said)] for p in PHRASES if p[: len(said)] == said})
            wrong = self.peek(len(said))
            self.fail(
                f"expected {_one_of(following)} after {' '.join(said)!r}, not {wrong.shown()}",
                wrong.at,
            )

    def unknown(self, start: _Token) -> str:
        if start.kind != "word":
            return f"expected a term such as 'src net 10.0.0.0/8', not {start.shown()}"
        if re.fullmatch(r"[\d.]+(/\d+)?|[0-9a-f:]*:[0-9a-f:]*(/\d+)?", start.word):
            return f"expected a term, not a value: did you mean 'net {start.text}' or 'port …'?"
        near = difflib.get_close_matches(start.word, [*FIRST_WORDS, *self.columns, *BARE], 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return f"no term or column is called {start.text!r}{hint}"

    def operator(self, found: Field) -> str:
        token = self.take()
        if token.text == "~" and found.kind is not values.TEXT:
            self.fail("only texts have patterns: ~ cannot be used here", token.at)
        ordered = found.kind.ordered and not found.collection
        if token.text in ("<", "<=", ">", ">=") and not ordered:
            self.fail(f"{token.text} makes no sense here: use = or !=", token.at)
        return token.text

    def list_of(self, found: Field) -> tuple[Value, ...]:
        opened = self.take()
        taken: list[Value] = []
        while (self.token.kind, self.token.text) != ("mark", "]"):
            if self.token.kind == "end":
                self.fail("a list without its closing ']'", opened.at)
            taken.append(self.value(found))
            if (self.token.kind, self.token.text) == ("mark", ","):
                self.take()
        self.take()
        if not taken:
            self.fail(f"an empty list: expected {found.kind.expected}", opened.at)
        return tuple(taken)

    def take_value(self, expected: str) -> _Token:
        if self.token.kind not in ("word", "text"):
            self.fail(f"expected {expected}, not {self.token.shown()}")
        return self.take()

    def value(self, found: Field) -> Value:
        token = self.take_value(found.kind.expected)
        try:
            return found.kind.read(token.text)
        except ValueError as error:
            self.fail(f"{token.text!r} is not {error}", token.at)
