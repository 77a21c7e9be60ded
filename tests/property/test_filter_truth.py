"""The filter language against an independent, naive evaluation, and against its own text."""

import ipaddress
import uuid
from fnmatch import fnmatchcase

import duckdb
import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given, settings

from appliance.query.filter import And, Everything, Not, Or, Term, parse
from appliance.query.predicate import Parameters, predicate
from appliance.query.terms import PHRASES, SQL_TYPES
from appliance.query.values import Net, Span, Text
from appliance.schema import CANONICAL

# values are few, so that random filters often hold for random rows
ADDRESSES = [
    int(ipaddress.IPv6Address(a))
    for a in (
        "::", "::1", "::ffff:10.0.0.1", "::ffff:10.0.255.255", "::ffff:10.1.0.0",
        "::ffff:0.0.0.0", "::ffff:255.255.255.255", "::fffe:ffff:ffff", "::1:0:0:0",
        "2001:db8::1", "2001:db8:ffff::", "7fff::", "8000::", "ffff:ffff:ffff:ffff::1",
    )
]  # fmt: skip
PORTS = [0, 22, 53, 80, 443, 0x0800, 65535]
NS = 10**9
COLUMNS = {
    "src_addr": ADDRESSES,
    "dst_addr": ADDRESSES,
    "exporter": ADDRESSES,
    "inner_src_addr": ADDRESSES,
    "inner_dst_addr": ADDRESSES,
    "next_hop": ADDRESSES,
    "src_port": PORTS,
    "dst_port": PORTS,
    "src_as": [0, 64512, 2**32 - 1],
    "dst_as": [0, 64512, 2**32 - 1],
    "in_if": [0, 3, 7],
    "out_if": [0, 3, 7],
    "protocol": [1, 6, 17, 58, 200],
    "tcp_flags": [0, 2, 0x12, 0x10, 0x1FF],
    "tos": [0, 0xB8, 0xB9, 40],
    "bytes": [0, 999, 1000, 10**6, 2**63, 2**64 - 1],
    "packets": [0, 1, 10, 2**64 - 1],
    "start_ns": [0, 1_700_000_000 * NS],
    "end_ns": [0, NS // 2, 1_700_000_001 * NS, 1_700_000_005 * NS],
    "src_mac": [0, 0xAABBCCDDEEFF],
    "dst_mac": [0, 0xAABBCCDDEEFF],
    "vlan": [1, 10],
    "post_vlan": [1, 10],
    "dot1q_vlan": [10],
    "icmp_type": [3, 8],
    "icmp_type_code": [0x0301],
    "ip_version": [4, 6],
    "sampling_rate": [0, 1, 1000],
    "sampling_source": [0, 1],
    "ip_ttl": [0, 64, 255],
    "app_name": ["https", "goo gle", "Go*", 'a"b\\c'],
    "uptime_lt_switched": [True, False],
    "as_path": [[], [64512], [1, 2**32 - 1]],
    "extra": [{}, {"9.1": "0aFF"}, {"9.1": "00", "9.2": "0aff"}],
    "observation_domain": [0, 5],
}
TYPES = {name: CANONICAL[name] for name in COLUMNS}

rows = st.lists(
    st.fixed_dictionaries(
        {name: st.none() | st.sampled_from(values) for name, values in COLUMNS.items()}
    ),
    min_size=5,
    max_size=30,
)


# --- random filters, made of text that a person could write ---


def _address_text(value: int) -> str:
    address = ipaddress.IPv6Address(value)
    return str(address.ipv4_mapped or address)


def _nets() -> st.SearchStrategy[str]:
    def net(value: int, bits: int) -> str:
        text = _address_text(value)
        return f"{text}/{bits % (33 if '.' in text else 129)}"

    single = st.sampled_from(ADDRESSES).map(_address_text)
    return single | st.builds(net, st.sampled_from(ADDRESSES), st.integers(0, 128))


def _one_of(strings: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A value, or a list of values."""
    return strings | st.lists(strings, min_size=1, max_size=4).map(lambda v: f"in [{', '.join(v)}]")


def _spans(values: list[int]) -> st.SearchStrategy[str]:
    number = st.sampled_from(values).map(str)
    pair = st.tuples(st.sampled_from(values), st.sampled_from(values))
    return _one_of(number | pair.map(lambda p: f"{min(p)}-{max(p)}"))


def _compared(phrases: list[str], values: list[str]) -> st.SearchStrategy[str]:
    return st.builds(
        "{} {} {}".format,
        st.sampled_from(phrases),
        st.sampled_from(["", "=", "==", "!=", "<>", "<", "<=", ">", ">="]),
        st.sampled_from(values),
    )


def _sided(name: str, values: st.SearchStrategy[str], first="src", second="dst"):
    sides = ["", first, second, f"{first} and {second}", f"{first} or {second}"]
    return st.builds("{} {} {} {}".format, st.sampled_from(sides), st.just(name),
                     st.sampled_from(["", "=", "!="]), values)  # fmt: skip


terms = st.one_of(
    _sided("net", _one_of(_nets())),
    _sided("host", _one_of(_nets())),
    _sided("inner ip", _one_of(_nets())),
    _sided("port", _spans(PORTS)),
    _sided("as", _spans([0, 64512, 2**32 - 1])),
    _sided("mac", st.sampled_from(["aa:bb:cc:dd:ee:ff", "AABB.CCDD.EEFF", "00-00-00-00-00-00"])),
    _sided("if", _spans([0, 3, 7, 9]), "in", "out"),
    _compared(["src port", "port", "dst port", "bytes", "packets", "tos", "domain", "ip_ttl"],
              ["0", "10", "80", "0x10"]),
    _compared(["bytes"], ["1k", "1Ki", "1m", "1.5k", "18446744073709551615"]),
    _compared(["duration"], ["0", "500ms", "1s", "5s", "1700000001s", "0.5s"]),
    _compared(["bps", "pps", "bpp"], ["0", "1", "1.6k", "8m", "0.5", "1000000"]),
    _compared(["dscp"], ["ef", "cs5", "46", "0"]),
    _compared(["proto", "protocol"], ["6", "17", "200"]),
    _compared(["src_port", "column bytes", "vlan", "column vlan", "icmp type"], ["1", "8", "10"]),
    st.sampled_from(["tcp", "udp", "icmp", "icmp6", "proto tcp", "proto in [tcp udp]", "ipv4",
                     "ipv6", "any", "sampling unknown", "sampling known"]),
    st.sampled_from(["flags S", "flags SA", "flags = SA", "flags 0x10", "flags != A"]),
    st.sampled_from(["next hop 10.0.0.1", "exporter 10.0.0.0/8", "vlan 10", "icmp type 3",
                     "icmp code 1", "inner src port 5", "nat dst net 10.0.0.0/8",
                     "end_ns >= 2023-11-14T22:13:25Z"]),
    st.sampled_from(["as_path = 64512", "as_path != 64512", "as_path 1-64512",
                     "uptime_lt_switched = true", "uptime_lt_switched = false"]),
    st.sampled_from(['extra "9.1"', 'extra "9.1" = 0aff', 'extra "9.2" != 0AFF', "extra 9.3",
                     'extra "9.1" in [00 0aff]']),
    st.sampled_from(['app "https"', 'app != "goo gle"', 'app ~ "[gG]o*"', 'app "a\\"b\\\\c"',
                     'app in ["Go*" "https"]']),
)  # fmt: skip
leaves = st.lists(terms, min_size=4, max_size=12, unique=True)
SHAPES = [
    "not ({}) and {}",
    "({} or {}) and {}",
    "{} || {} && !{}",
    "!(!({} and {}) or not {})",
    "not ({} or ({} and not {}))",
]


def filters(written: list[str]) -> list[str]:
    """The terms themselves, and combinations of neighbours."""
    made = list(written)
    for i, shape in enumerate(SHAPES):
        count = shape.count("{}")
        made.append(shape.format(*(written[(i + k) % len(written)] for k in range(count))))
    return made


# --- the naive evaluation ---

V4 = range(0xFFFF00000000, 0xFFFFFFFFFFFF + 1)


def _read(term: Term, row: dict) -> list:
    """The values that a term looks at, without SQL."""
    name, prefix = term.field.name, term.field.prefix
    sided = {
        ("", "net"): ("src_addr", "dst_addr"), ("", "port"): ("src_port", "dst_port"),
        ("", "as"): ("src_as", "dst_as"), ("", "mac"): ("src_mac", "dst_mac"),
        ("", "if"): ("in_if", "out_if"), ("inner", "net"): ("inner_src_addr", "inner_dst_addr"),
        ("inner", "port"): ("inner_src_port", "inner_dst_port"),
        ("nat", "net"): ("post_nat_src_addr", "post_nat_dst_addr"),
    }.get((prefix, name))  # fmt: skip
    if sided:
        taken = {"src": sided[:1], "in": sided[:1], "dst": sided[1:], "out": sided[1:]}
        return [row.get(c) for c in taken.get(term.side, sided)]
    if (prefix, name) == ("", "vlan"):
        return [row["vlan"], row["post_vlan"], row["dot1q_vlan"]]
    return [_computed(prefix, name, row, term.key)]


def _computed(prefix: str, name: str, row: dict, key: str):
    start, end = row["start_ns"], row["end_ns"]
    length = None if start is None or end is None else end - start
    if name in ("bps", "pps", "bpp"):
        size = row["packets"] if name == "pps" else row["bytes"]
        over = row["packets"] if name == "bpp" else length
        if size is None or over is None or over <= 0:
            return None
        return size / over if name == "bpp" else size * (8 if name == "bps" else 1) / (over / 1e9)
    if prefix == "icmp":
        if row["protocol"] not in (1, 58):
            return None
        shift = 8 if name == "type" else 0
        if name == "type" and row["icmp_type"] is not None:
            return row["icmp_type"]
        for both in (row["icmp_type_code"], row["dst_port"]):
            if both is not None:
                return both >> shift & 255
        return None
    if name == "family":
        if row["src_addr"] is not None:
            return 4 if row["src_addr"] in V4 else 6
        return row["ip_version"]
    if name == "sampling":
        return 1 if (row["sampling_rate"] or 0) > 0 and (row["sampling_source"] or 0) > 0 else 0
    if name == "extra":
        found = (row["extra"] or {}).get(key)
        return None if found is None else found.lower()
    named = {"duration": length, "proto": row["protocol"], "flags": row["tcp_flags"],
             "dscp": None if row["tos"] is None else row["tos"] >> 2, "app": row["app_name"],
             "domain": row["observation_domain"], "next hop": row["next_hop"]}  # fmt: skip
    return named[name] if name in named else row[name]


def _fits(op: str, have, want) -> bool:
    if isinstance(have, list):
        return any(_fits(op, item, want) for item in have)
    if op == "~":
        return fnmatchcase(have, want.text)
    if isinstance(want, Text):
        return have == want.text
    low, high = (want.base, want.last) if isinstance(want, Net) else (want.low, want.high)
    if op == "has":
        return have & low == low
    compared = {"<": have < low, "<=": have <= low, ">": have > low, ">=": have >= low}
    return compared.get(op, low <= have <= high)


def holds(node, row: dict) -> bool:
    if isinstance(node, Everything):
        return True
    if isinstance(node, Not):
        return not holds(node.item, row)
    if isinstance(node, And):
        return all(holds(item, row) for item in node.items)
    if isinstance(node, Or):
        return any(holds(item, row) for item in node.items)
    op = "=" if node.op == "!=" else node.op
    every = all if node.side == "both" else any
    found = every(
        have is not None and (not node.values or any(_fits(op, have, v) for v in node.values))
        for have in _read(node, row)
    )
    return found != (node.op == "!=")


# --- the tests ---


@given(leaves)
@settings(max_examples=100, deadline=None)
def test_the_text_of_a_filter_means_the_same_filter(written):
    for text in filters(written):
        node = parse(text)
        assert parse(str(node)) == node


@pytest.fixture(scope="module")
def database():
    with duckdb.connect(config={"threads": 1}) as connection:
        shape = {**CANONICAL, **TYPES}
        columns = ", ".join(f'"{name}" {SQL_TYPES[t]}' for name, t in shape.items())
        connection.execute(f"CREATE TABLE flows (number INTEGER, {columns})")
        yield connection


def _array(name: str, values: list) -> pa.Array:
    type_ = TYPES[name]
    if type_ == pa.uuid():
        raw = [None if v is None else v.to_bytes(16, "big") for v in values]
        return pa.ExtensionArray.from_storage(type_, pa.array(raw, pa.binary(16)))
    if name == "extra":
        values = [None if v is None else list(v.items()) for v in values]
    return pa.array(values, type_)


@given(leaves, rows)
@settings(max_examples=150, deadline=None)
def test_duckdb_selects_what_a_naive_evaluation_does(database, written, made):
    table = pa.table({name: _array(name, [row[name] for row in made]) for name in COLUMNS})
    database.register("made", table.append_column("number", pa.array(range(len(made)), pa.int32())))
    database.execute("DELETE FROM flows")
    database.execute("INSERT INTO flows BY NAME SELECT * FROM made")
    complete = [{**dict.fromkeys(CANONICAL), **row} for row in made]
    for text in filters(written):
        node = parse(text)
        parameters = Parameters()
        where = predicate(node, parameters)
        found = database.execute(
            f"SELECT number FROM flows WHERE {where}", parameters.values
        ).fetchall()
        expected = [i for i, row in enumerate(complete) if holds(node, row)]
        assert sorted(n for (n,) in found) == expected, text


def test_every_phrase_can_be_written_and_read_back():
    samples = {"address": "10.0.0.0/8", "text": '"x"', "hex": "ff", "mac": "aa:bb:cc:dd:ee:ff",
               "flags": "S", "duration": "5s"}  # fmt: skip
    for phrase, (field, side) in PHRASES.items():
        value = samples.get(field.kind.name, "1")
        if field.kind.name == "choice":
            value = field.kind.expected.split("(")[1].split(",")[0].strip(") …")
        key = '"9.1" = ' if field.collection == "map" else ""
        node = parse(f"{' '.join(phrase)} {key}{value}")
        assert isinstance(node, Term)
        assert (node.field, node.side) == (field, side)
        assert parse(str(node)) == node


def test_a_parameter_keeps_its_exact_value():
    parameters = Parameters()
    predicate(parse("bytes = 18446744073709551615 and src net 2001:db8::/32"), parameters)
    assert list(parameters.values.values()) == [
        2**64 - 1,
        uuid.UUID(int=0x20010DB8 << 96),
        uuid.UUID(int=0x20010DB8 << 96 | (1 << 96) - 1),
    ]
    assert isinstance(parse("port 5").values[0], Span)
