"""The values of the filter language: how each kind is written, read back and bounded.

A kind knows nothing of columns or SQL; :mod:`appliance.query.terms` says which term takes which.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

V4_BASE = 0xFFFF00000000
"""``::ffff:0.0.0.0`` as an integer: where the IPv4 addresses lie among the 128-bit ones."""
ADDRESS_BITS = 128


@dataclass(frozen=True, slots=True)
class Net:
    """A network: its first address as a 128-bit integer (IPv4 mapped), and its prefix of 128."""

    base: int
    bits: int

    @property
    def last(self) -> int:
        """The last address of the network."""
        return self.base | ((1 << (ADDRESS_BITS - self.bits)) - 1)

    def __str__(self) -> str:
        text = address_text(self.base)
        if self.bits == ADDRESS_BITS:
            return text
        if "." in text and self.bits >= 96:
            return f"{text}/{self.bits - 96}"
        return f"{ipaddress.IPv6Address(self.base)}/{self.bits}"


@dataclass(frozen=True, slots=True)
class Span:
    """A number, or all numbers from ``low`` to ``high``, both included."""

    low: int | float
    high: int | float


@dataclass(frozen=True, slots=True)
class Text:
    """A text, compared exactly or as a pattern."""

    text: str


Value = Net | Span | Text


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value. ``read`` raises ValueError, whose text completes "is not …"."""

    name: str
    expected: str
    """What to write, for error messages: "a port number"."""
    read: Callable[[str], Value]
    write: Callable[[Value], str]
    ordered: bool = True
    """Whether <, <=, > and >= make sense."""


def address_text(value: int) -> str:
    """The usual text of a 128-bit address; IPv4-mapped ones are shown as IPv4.

    >>> address_text(0xFFFF0A000001), address_text(1)
    ('10.0.0.1', '::1')
    """
    if value >> 32 == 0xFFFF:
        return str(ipaddress.IPv4Address(value & 0xFFFFFFFF))
    return str(ipaddress.IPv6Address(value))


def mac_text(value: int) -> str:
    """A 48-bit integer as aa:bb:cc:dd:ee:ff."""
    digits = f"{value & 0xFFFFFFFFFFFF:012x}"
    return ":".join(digits[i : i + 2] for i in range(0, 12, 2))


def read_net(text: str) -> Net:
    """An address, or a network in CIDR notation; IPv4 networks may leave out trailing zeros."""
    address, slash, mask = text.partition("/")
    if slash and re.fullmatch(r"\d+(\.\d+){0,2}", address):
        text = ".".join([*address.split("."), "0", "0", "0"][:4]) + "/" + mask
    net = ipaddress.ip_network(text, strict=False)
    if net.version == 4:
        return Net(V4_BASE + int(net.network_address), 96 + net.prefixlen)
    return Net(int(net.network_address), net.prefixlen)


_SCALE = {
    "": 1,
    **{letter: 1000**i for i, letter in enumerate("kmgt", 1)},
    **{letter + "i": 1024**i for i, letter in enumerate("kmgt", 1)},
}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kmgt]i?)?", re.IGNORECASE)


def read_number(text: str) -> int | float:
    """``10``, ``0x1f``, ``1.5k`` (1000s), ``2Mi`` (1024s)."""
    if re.fullmatch(r"0[xX][0-9a-fA-F]+", text):
        return int(text, 16)
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError("a number")
    digits: str = match[1]
    scale: int = _SCALE[(match[2] or "").lower()]
    if "." not in digits:
        return int(digits) * scale
    product: float = round(float(digits) * scale, 9)
    return int(product) if product.is_integer() else product


def _read_span(
    text: str, read: Callable[[str], int | float], low: float, high: float, what: str
) -> Span:
    first, dash, last = text.partition("-")
    if not first and dash and low < 0:  # a negative number
        first, dash, last = "-" + last, "", ""
    span = Span(_signed(first, read), _signed(last if dash else first, read))
    for value in (span.low, span.high):
        if not low <= value <= high:
            raise ValueError(f"{what} from {low:g} to {high:g}")
    if span.low > span.high:
        raise ValueError("a range from low to high")
    return span


def _signed(text: str, read: Callable[[str], int | float]) -> int | float:
    return -read(text[1:]) if text.startswith("-") else read(text)


def _write_span(value: Value, write: Callable[[int | float], str]) -> str:
    assert isinstance(value, Span)
    if value.low == value.high:
        return write(value.low)
    return f"{write(value.low)}-{write(value.high)}"


@cache
def integers(low: int, high: int, what: str = "a number") -> Kind:
    """Whole numbers within bounds; the same kind for the same bounds."""

    def whole(text: str) -> int:
        number = read_number(text)
        if not isinstance(number, int):
            raise ValueError("a whole number")
        return number

    return Kind(
        "number",
        f"{what} such as 80, or a range such as 80-90",
        lambda text: _read_span(text, whole, low, high, what),
        lambda value: _write_span(value, str),
    )


def _write_real(value: int | float) -> str:
    # neither an exponent nor its sign may reach the text: "-" means a range
    return str(value) if isinstance(value, int) else f"{value:.9f}".rstrip("0").rstrip(".")


REAL = Kind(
    "real",
    "a number such as 500, 1.5k or 2m",
    lambda text: _read_span(text, read_number, 0, 2**120, "a number"),
    lambda value: _write_span(value, _write_real),
)

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d)?", re.IGNORECASE)


def read_duration(text: str) -> int:
    """Nanoseconds of ``5s``, ``100ms``, ``2.5h``; seconds where there is no unit."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("a duration such as 5s, 100ms, 2m or 1h")
    number: str = match[1]
    unit: int = _UNITS[(match[2] or "s").lower()]
    return int(number) * unit if "." not in number else round(float(number) * unit)


def write_duration(value: int | float) -> str:
    """The largest whole unit: 90000000000 → 90s."""
    for unit in ("d", "h", "m", "s", "ms", "us"):
        if value and value % _UNITS[unit] == 0:
            return f"{int(value) // _UNITS[unit]}{unit}"
    return f"{int(value)}ns"


DURATION = Kind(
    "duration",
    "a duration such as 5s, 100ms or 2m",
    lambda text: _read_span(text, read_duration, 0, 2**62, "a duration"),
    lambda value: _write_span(value, write_duration),
)


def _read_time(text: str) -> Value:
    if text.isdigit():
        return Span(int(text), int(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("a time such as 2025-01-31T12:00:00Z, or ns since the epoch") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    ns = (since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000
    return Span(ns, ns)


TIME = Kind(
    "time",
    "a time such as 2025-01-31T12:00:00Z (UTC), or ns since the epoch",
    _read_time,
    lambda value: _write_span(value, str),
)


def _read_address(text: str) -> Value:
    try:
        return read_net(text)
    except ValueError as error:
        raise ValueError(f"an address ({error})") from None


ADDRESS = Kind(
    "address",
    "an address or a network such as 10.1.2.3, 10.0.0.0/8 or 2001:db8::/32",
    _read_address,
    str,
    ordered=False,
)


def _read_mac(text: str) -> Value:
    digits = re.sub(r"[:.-]", "", text)
    if not re.fullmatch(r"[0-9a-fA-F]{12}", digits):
        raise ValueError("a MAC address such as 00:1b:54:aa:bb:cc")
    return Span(int(digits, 16), int(digits, 16))


MAC = Kind(
    "mac",
    "a MAC address such as 00:1b:54:aa:bb:cc",
    _read_mac,
    lambda value: _write_span(value, lambda number: mac_text(int(number))),
    ordered=False,
)


def choice(what: str, names: dict[str, int], high: int | None = None) -> Kind:
    """Names that stand for numbers; numbers up to ``high`` too, where it is given.

    Of several names of one number the first is the one that is written.
    """
    spelled: dict[int, str] = {}
    for name, number in names.items():
        spelled.setdefault(number, name)
    some = ", ".join(list(names)[:4]) + (" …" if len(names) > 4 else "")

    def read(text: str) -> Value:
        if text.lower() in names:
            number = names[text.lower()]
            return Span(number, number)
        if high is None:
            raise ValueError(f"{what} ({some})")
        try:
            return _read_span(text, read_number, 0, high, "a number")
        except ValueError:
            raise ValueError(f"{what}: a name ({some}) or a number from 0 to {high}") from None

    return Kind(
        "choice",
        f"{what} ({some})",
        read,
        lambda value: _write_span(value, lambda number: spelled.get(int(number), str(number))),
        ordered=high is not None,
    )


FLAG_LETTERS = "FSRPAUECN"
"""TCP flags from bit 0: FIN, SYN, RST, PSH, ACK, URG, ECE, CWR, NS."""


def flags_text(value: int) -> str:
    """The letters of the set bits, from the highest; ``.`` when there is none."""
    letters = "".join(
        letter for i, letter in reversed(list(enumerate(FLAG_LETTERS))) if value >> i & 1
    )
    return letters or "."


def _read_flags(text: str) -> Value:
    bits = 0
    if text[:1].isdigit():
        number = read_number(text)
        if not isinstance(number, int) or number > 0xFFFF:
            raise ValueError("TCP flags: letters of FSRPAUECN, or a number up to 0xffff")
        return Span(number, number)
    for letter in text.upper():
        if letter not in FLAG_LETTERS:
            raise ValueError(f"TCP flags: letters of {FLAG_LETTERS}, not {letter!r}")
        bits |= 1 << FLAG_LETTERS.index(letter)
    return Span(bits, bits)


def _write_flags(value: Value) -> str:
    assert isinstance(value, Span)
    number = int(value.low)
    return flags_text(number) if 0 < number < 1 << len(FLAG_LETTERS) else hex(number)


FLAGS = Kind("flags", "TCP flags such as S, SA or 0x12", _read_flags, _write_flags, ordered=False)


def quote(text: str) -> str:
    """A text in double quotes, as the filter language writes it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


TEXT = Kind(
    "text",
    'a text such as "https"; with ~ a pattern such as "goog*"',
    Text,
    lambda value: quote(value.text) if isinstance(value, Text) else str(value),
    ordered=False,
)


def _read_hex(text: str) -> Value:
    digits = text.lower().removeprefix("0x")
    if not re.fullmatch(r"([0-9a-f]{2})*", digits):
        raise ValueError("bytes in hexadecimal, such as 0a1b")
    return Text(digits)


HEX = Kind(
    "hex",
    "bytes in hexadecimal, such as 0a1b",
    _read_hex,
    lambda value: quote(value.text) if isinstance(value, Text) else str(value),
    ordered=False,
)
