"""The vocabulary of the filter language: which words name which columns, and the kind of value.

A term is looked up by its phrase (``src net``, ``inner dst port``, ``next hop``); every phrase of a
field, in every order that people write, is made from one row of the table below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from appliance.query import values
from appliance.query.values import V4_BASE, Kind
from appliance.schema import ADDRESS, EXTRA, LABELS, ExportProtocol

SIDES = {"src": ("src", "dst"), "in": ("in", "out"), "": ("", "")}


@dataclass(frozen=True, slots=True)
class Field:
    """What a term compares.

    ``columns`` are SQL expressions over the canonical columns: one; or the source's, then the
    destination's (``src``/``dst`` or ``in``/``out``, as ``sides`` says). A term without a side
    holds when any of them does.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    reads: frozenset[str]
    """The columns that the expressions read."""
    sides: str = ""
    """``src``, ``in``, or empty where there are no sides."""
    cast: str = ""
    """SQL type of the compared values, so that the column itself needs no cast."""
    prefix: str = ""
    aliases: tuple[str, ...] = ()
    collection: str = ""
    """``list`` or ``map`` where the value is looked for inside the column."""


_PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "egp": 8, "igp": 9, "udp": 17, "ip6ip": 41,
    "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "icmp6": 58, "ipv6-icmp": 58, "icmpv6": 58,
    "eigrp": 88, "ospf": 89, "etherip": 97, "pim": 103, "ipcomp": 108, "vrrp": 112, "l2tp": 115,
    "sctp": 132, "udplite": 136, "mpls": 137,
}  # fmt: skip
PROTOCOL_NAMES = {number: name for name, number in reversed(_PROTOCOLS.items())}
"""Names of IP protocols by number (IANA, "Assigned Internet Protocol Numbers")."""

BARE_PROTOCOLS = [name for name in _PROTOCOLS if "-" not in name]
"""Protocols that are a term of their own: ``tcp`` means ``proto tcp``."""

DSCP_NAMES = {
    "cs0": 0, "be": 0, "df": 0, "le": 1, "cs1": 8, "af11": 10, "af12": 12, "af13": 14, "cs2": 16,
    "af21": 18, "af22": 20, "af23": 22, "cs3": 24, "af31": 26, "af32": 28, "af33": 30, "cs4": 32,
    "af41": 34, "af42": 36, "af43": 38, "cs5": 40, "va": 44, "ef": 46, "cs6": 48, "cs7": 56,
}  # fmt: skip
"""Code points by name (RFC 2474, 2597, 3246, 5865, 8622)."""

EXPORT_NAMES = {
    "v1": int(ExportProtocol.NETFLOW_V1),
    "v5": int(ExportProtocol.NETFLOW_V5),
    "v7": int(ExportProtocol.NETFLOW_V7),
    "v9": int(ExportProtocol.NETFLOW_V9),
    "ipfix": int(ExportProtocol.IPFIX),
    "sflow": int(ExportProtocol.SFLOW_V5),
}

SAMPLING_KNOWN = "(coalesce(sampling_rate, 0) > 0 AND coalesce(sampling_source, 0) > 0)"
"""SQL: whether the row's sampling rate is known. Where it is not, counters stay as sent."""

_V4 = f"{V4_BASE}::UHUGEINT::UUID AND {V4_BASE + 0xFFFFFFFF}::UHUGEINT::UUID"
_FAMILY = (
    f"CASE WHEN src_addr BETWEEN {_V4} THEN 4 WHEN src_addr IS NOT NULL THEN 6 ELSE ip_version END"
)
_NS = "(end_ns - start_ns)"
_SECONDS = f"(nullif(greatest({_NS}, 0), 0) / 1e9)"
_ICMP = "protocol IN (1, 58)"


def _of(
    name: str,
    kind: Kind,
    columns: str,
    *,
    sides: str = "",
    cast: str = "",
    prefix: str = "",
    aliases: str = "",
) -> Field:
    """A row of the table whose columns are plain ones."""
    names = tuple(columns.split())
    return Field(
        name, kind, names, frozenset(names), sides, cast, prefix, tuple(aliases.split(","))
        if aliases
        else (),
    )  # fmt: skip


def _computed(name: str, kind: Kind, sql: str, reads: str, *, cast: str, prefix: str = "") -> Field:
    """A row whose value is computed."""
    return Field(name, kind, (sql,), frozenset(reads.split()), "", cast, prefix)


_PORT = values.integers(0, 65535, "a port number")
_U8 = values.integers(0, 0xFF)
_U16 = values.integers(0, 0xFFFF)
_U32 = values.integers(0, 0xFFFFFFFF)
_U64 = values.integers(0, 2**64 - 1)
_PROTO = values.choice("an IP protocol", _PROTOCOLS, 255)
_BOOLEAN = values.choice("true or false", {"true": 1, "false": 0})
_IP_ALIASES = "host,ip,addr"

# fmt: off
FIELDS: tuple[Field, ...] = (
    _of("net", values.ADDRESS, "src_addr dst_addr", sides="src", aliases=_IP_ALIASES),
    _of("port", _PORT, "src_port dst_port", sides="src", cast="USMALLINT"),
    _of("as", _U32, "src_as dst_as", sides="src", cast="UINTEGER"),
    _of("peer as", _U32, "src_peer_as dst_peer_as", sides="src", cast="UINTEGER"),
    _of("mask", values.integers(0, 128), "src_mask dst_mask", sides="src", cast="UTINYINT"),
    _of("mac", values.MAC, "src_mac dst_mac", sides="src", cast="UBIGINT"),
    _of("if", _U32, "in_if out_if", sides="in", cast="UINTEGER"),
    _of("vrf", _U32, "in_vrf out_vrf", sides="in", cast="UINTEGER"),
    _of("if name", values.TEXT, "in_if_name out_if_name", sides="in"),
    _of("proto", _PROTO, "protocol", cast="UTINYINT"),
    _of("flags", values.FLAGS, "tcp_flags", cast="USMALLINT"),
    _of("tos", _U8, "tos", cast="UTINYINT"),
    _computed(
        "dscp", values.choice("a code point", DSCP_NAMES, 63), "(tos >> 2)", "tos", cast="UTINYINT"
    ),
    _of("bytes", _U64, "bytes", cast="UBIGINT"),
    _of("packets", _U64, "packets", cast="UBIGINT"),
    _computed("duration", values.DURATION, _NS, "start_ns end_ns", cast="BIGINT"),
    _computed(
        "bps", values.REAL, f"(bytes * 8e0 / {_SECONDS})", "bytes start_ns end_ns", cast="DOUBLE"
    ),
    _computed(
        "pps", values.REAL, f"(packets / {_SECONDS})", "packets start_ns end_ns", cast="DOUBLE"
    ),
    _computed(
        "bpp", values.REAL, "(bytes / nullif(packets, 0))", "bytes packets", cast="DOUBLE"
    ),
    Field(
        "vlan", values.integers(0, 4095, "a VLAN"), ("vlan", "post_vlan", "dot1q_vlan"),
        frozenset({"vlan", "post_vlan", "dot1q_vlan"}), "", "USMALLINT",
    ),
    _of("exporter", values.ADDRESS, "exporter", aliases="router"),
    _of("domain", _U32, "observation_domain", cast="UINTEGER"),
    _of("export", values.choice("a protocol", EXPORT_NAMES, 255), "export_protocol",
        cast="UTINYINT"),
    _of("next hop", values.ADDRESS, "next_hop", aliases="next ip"),
    _of("bgp next hop", values.ADDRESS, "bgp_next_hop", aliases="bgp next ip"),
    _of("app", values.TEXT, "app_name"),
    _of("net", values.ADDRESS, "inner_src_addr inner_dst_addr", sides="src", prefix="inner",
        aliases=_IP_ALIASES),
    _of("port", _PORT, "inner_src_port inner_dst_port", sides="src", cast="USMALLINT",
        prefix="inner"),
    _of("proto", _PROTO, "inner_protocol", cast="UTINYINT", prefix="inner"),
    _of("vlan", values.integers(0, 4095, "a VLAN"), "inner_vlan", cast="USMALLINT",
        prefix="inner"),
    _of("net", values.ADDRESS, "post_nat_src_addr post_nat_dst_addr", sides="src", prefix="nat",
        aliases=_IP_ALIASES),
    _of("port", _PORT, "post_nat_src_port post_nat_dst_port", sides="src", cast="USMALLINT",
        prefix="nat"),
    # ICMP's type and code stay where the exporter put them, mostly in the destination port
    _computed("type", _U8, f"CASE WHEN {_ICMP} THEN coalesce(icmp_type, icmp_type_code >> 8, "
              "dst_port >> 8) END", "protocol icmp_type icmp_type_code dst_port",
              cast="UTINYINT", prefix="icmp"),
    _computed("code", _U8, f"CASE WHEN {_ICMP} THEN coalesce(icmp_code, icmp_type_code & 255, "
              "dst_port & 255) END", "protocol icmp_code icmp_type_code dst_port",
              cast="UTINYINT", prefix="icmp"),
    _computed("family", values.choice("an address family", {"ipv4": 4, "ipv6": 6}), _FAMILY,
              "src_addr ip_version", cast="UTINYINT"),
    _computed("sampling", values.choice("known or unknown", {"known": 1, "unknown": 0}),
              f"{SAMPLING_KNOWN}::UTINYINT", "sampling_rate sampling_source", cast="UTINYINT"),
    Field("extra", values.HEX, ("extra",), frozenset({"extra"}), "", "", "", (), "map"),
)
# fmt: on

Phrase = tuple[str, ...]


def _phrases(field: Field) -> Iterator[tuple[Phrase, str]]:
    """Every way to name ``field``, with the side that it names; the canonical one first."""
    prefix = tuple(field.prefix.split())
    names = [tuple(name.split()) for name in (field.name, *field.aliases)]
    first, second = SIDES[field.sides]
    sides: list[tuple[Phrase, str]] = [((), "")]
    if field.sides:
        sides += [
            ((first,), first),
            ((second,), second),
            ((first, "or", second), ""),
            ((first, "and", second), "both"),
        ]
    for name in names:
        for words, side in sides:
            yield (*prefix, *words, *name), side
            if prefix and words:
                yield (*words, *prefix, *name), side


PHRASES: dict[Phrase, tuple[Field, str]] = {
    phrase: (field, side) for field in FIELDS for phrase, side in _phrases(field)
}
"""Field and side by phrase."""

LONGEST_PHRASE = max(map(len, PHRASES))
FIRST_WORDS = {phrase[0] for phrase in PHRASES}
BARE = {**dict.fromkeys(BARE_PROTOCOLS, "proto"), "ipv4": "family", "ipv6": "family"}
"""Terms of one word: the value that says its field."""
_RESERVED = FIRST_WORDS | BARE.keys() | {"and", "or", "not", "any", "column"}


def phrase_of(field: Field, side: str) -> str:
    """The canonical phrase, as :func:`str` of a term writes it."""
    first, second = SIDES[field.sides]
    words = f"{first} and {second}" if side == "both" else side
    return " ".join(part for part in (field.prefix, words, field.name) if part)


SQL_TYPES = {
    pa.int8(): "TINYINT", pa.int16(): "SMALLINT", pa.int32(): "INTEGER", pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT", pa.uint16(): "USMALLINT", pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT", pa.float32(): "FLOAT", pa.float64(): "DOUBLE", pa.bool_(): "BOOLEAN",
    pa.string(): "VARCHAR", pa.binary(): "BLOB", ADDRESS: "UUID", LABELS: "UINTEGER[]",
    EXTRA: "MAP(VARCHAR, VARCHAR)",
}  # fmt: skip
"""DuckDB's type of each Arrow type that a column may have."""


def is_mac(name: str) -> bool:
    """Whether column ``name`` holds a MAC address: its Arrow type, uint64, does not say so."""
    return "mac" in name.split("_")


def column_field(name: str, columns: Mapping[str, pa.DataType]) -> Field | None:
    """The field of column ``name``, or None when there is no such column, or no way to compare."""
    type_ = columns.get(name)
    if type_ is None:
        return None
    quoted = '"' + name.replace('"', '""') + '"'
    reads = frozenset({name})
    prefix = "column" if name in _RESERVED else ""
    if type_ == LABELS:
        return Field(
            name, _U32, (quoted,), reads, cast="UINTEGER", prefix=prefix, collection="list"
        )
    kind = _kind_of(name, type_)
    if kind is None:
        return None
    cast = "" if kind in (values.ADDRESS, values.HEX) else SQL_TYPES[type_]
    sql = f"lower(hex({quoted}))" if type_ == pa.binary() else quoted
    return Field(name, kind, (sql,), reads, cast=cast, prefix=prefix)


def _kind_of(name: str, type_: pa.DataType) -> Kind | None:
    if type_ == ADDRESS:
        return values.ADDRESS
    if type_ == pa.string():
        return values.TEXT
    if type_ == pa.binary():
        return values.HEX
    if type_ == pa.bool_():
        return _BOOLEAN
    if is_mac(name) and type_ == pa.uint64():
        return values.MAC
    if name.endswith("_ns") and type_ == pa.int64():
        return values.TIME
    if pa.types.is_floating(type_):
        return values.REAL
    if pa.types.is_integer(type_):
        bits = type_.bit_width
        if pa.types.is_signed_integer(type_):
            return values.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return values.integers(0, 2**bits - 1)
    return None
