"""Values as people read them. Column names decide, as in the schema."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from appliance.query.terms import PROTOCOL_NAMES
from appliance.query.values import flags_text
from appliance.schema import ExportProtocol, SamplingSource

_EXPORT = {
    ExportProtocol.NETFLOW_V1: "NetFlow v1",
    ExportProtocol.NETFLOW_V5: "NetFlow v5",
    ExportProtocol.NETFLOW_V7: "NetFlow v7",
    ExportProtocol.NETFLOW_V9: "NetFlow v9",
    ExportProtocol.IPFIX: "IPFIX",
    ExportProtocol.SFLOW_V5: "sFlow v5",
}
_SOURCES = set(SamplingSource)


def protocol_text(name: str) -> str:
    """The export protocol that the ledger calls ``name``: NETFLOW_V9 → NetFlow v9."""
    known = ExportProtocol.__members__.get(name)
    return _EXPORT[known] if known in _EXPORT else name.lower()


HEADINGS = {
    "received_ns": "received (UTC)",
    "time_ns": "time (UTC)",
    "last_ns": "last (UTC)",
    "first_ns": "first (UTC)",
    "src_addr": "source",
    "dst_addr": "destination",
    "src_port": "sport",
    "dst_port": "dport",
    "tcp_flags": "flags",
    "export_protocol": "export",
    "observation_domain": "domain",
    "sampling_rate": "sampling",
    "unknown": "unscaled",
    "flows_per_second": "flows/s",
    "bps": "bit/s",
    "pps": "packets/s",
}
"""Column titles of tables; without an entry, the name with blanks."""

_LETTERS = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def short(value: float) -> str:
    """Three significant digits and a letter: 1230000 → 1.23M."""
    power = 0
    number = float(value)
    while abs(number) >= 999.5 and power < len(_LETTERS) - 1:
        number /= 1000
        power += 1
    if power == 0:
        return f"{number:.0f}" if number == int(number) else f"{number:.3g}"
    digits = max(0, 2 - (abs(number) >= 9.995) - (abs(number) >= 99.95))
    return f"{number:.{digits}f}{_LETTERS[power]}"


def moment(ns: int, fraction: int = 0) -> str:
    """A time in UTC, with ``fraction`` digits of a second."""
    seconds, rest = divmod(ns, 10**9)
    try:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return f"{ns} ns"
    return text + (f".{rest:09d}"[: fraction + 1] if fraction else "")


def ago(ns: int, now_ns: int) -> str:
    """How long before now: 3 s, 12 min, 4 h, 2 d."""
    seconds = max(now_ns - ns, 0) / 1e9
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def percent(share: float | None) -> str:
    """A share of 1 as a percentage."""
    return "" if share is None else f"{share * 100:.1f}%"


_COUNTERS = {"bytes", "packets", "flows", "bps", "pps", "flows_per_second", "mean_bps", "p95_bps",
             "max_bps"}  # fmt: skip
RIGHT = _COUNTERS | {"share", "unknown", "src_port", "dst_port", "rate_min", "rate_max"}


def heading(name: str) -> str:
    """The title of a column."""
    return HEADINGS.get(name, name.removesuffix("_ns").replace("_", " "))


def shown(name: str, value: Any, row: dict[str, Any]) -> str:
    """``value`` of column ``name`` in a table; ``row`` has the other columns' values."""
    if name == "sampling_rate":
        known = row.get("sampling_source", SamplingSource.UNKNOWN) and value
        return f"1/{value}" if known else "unknown"
    if value is None:
        return "-"
    if name in _COUNTERS:
        return short(value)
    if name == "share":
        return percent(value)
    if name.endswith("_ns") and isinstance(value, int):
        return moment(value, 0 if name == "time_ns" else 3)
    if name in ("protocol", "inner_protocol"):
        return PROTOCOL_NAMES.get(value, str(value))
    if name == "tcp_flags":
        return flags_text(value)
    if name == "sampling_source" and value in _SOURCES:
        return SamplingSource(value).name.lower()
    if name == "export_protocol":
        return _EXPORT.get(value, str(value))
    return plain(value)


def plain(value: Any) -> str:
    """Any value as one line of text."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        if value and isinstance(value[0], tuple):
            return " ".join(f"{k}={v}" for k, v in value)
        return " ".join(map(plain, value))
    return str(value)
