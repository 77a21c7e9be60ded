"""The filter language: what people write, and what they are told when it is wrong."""

from __future__ import annotations

import pytest

from appliance.query.filter import MAX_DEPTH, Everything, FilterError, parse, reads
from appliance.schema import CANONICAL


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("src net 10.0.0.0/8 and dst port 443", "src net 10.0.0.0/8 and dst port 443"),
        ("host 10.1.1.1", "net 10.1.1.1"),
        ("net 10.1.2.3/8", "net 10.0.0.0/8"),
        ("net 172.16/12", "net 172.16.0.0/12"),
        ("net 0.0.0.0/0", "net 0.0.0.0/0"),
        ("net ::ffff:10.0.0.0/104", "net 10.0.0.0/8"),
        ("net ::/0", "net ::/0"),
        ("tcp", "proto tcp"),
        ("proto 6", "proto tcp"),
        ("icmp6", "proto icmp6"),
        ("icmp type 8", "icmp type 8"),
        ("proto 222", "proto 222"),
        ("bytes > 1m", "bytes > 1000000"),
        ("bytes > 1Mi", "bytes > 1048576"),
        ("duration > 90s", "duration > 90s"),
        ("duration > 60000ms", "duration > 1m"),
        ("tos 0xb8", "tos 184"),
        ("dscp 46", "dscp ef"),
        ("flags S and not flags A", "flags S and not flags A"),
        ("flags 0x12", "flags AS"),
        ("mac aabb.ccdd.eeff", "mac aa:bb:cc:dd:ee:ff"),
        ("port in [80, 443 8000-8100]", "port in [80 443 8000-8100]"),
        ("src or dst port 53", "port 53"),
        ("src and dst port 53", "src and dst port 53"),
        ("inner src net 10.0.0.0/8", "inner src net 10.0.0.0/8"),
        ("src inner net 10.0.0.0/8", "inner src net 10.0.0.0/8"),
        ("next ip 10.0.0.1", "next hop 10.0.0.1"),
        ("ipv6", "family ipv6"),
        ('extra "9.12345" = FF', 'extra "9.12345" = "ff"'),
        ("rev_bytes > 10", "rev_bytes > 10"),
        ("src_port_2 = 10", "src_port_2 10"),
        ("column vlan = 10", "column vlan 10"),
        ("not not tcp", "not not proto tcp"),
        ("tcp or udp and port 53", "proto tcp or proto udp and port 53"),
        ("(tcp or udp) and port 53", "(proto tcp or proto udp) and port 53"),
        ("!tcp&&udp||any", "not proto tcp and proto udp or any"),
        ("TCP AND Src Port 53", "proto tcp and src port 53"),
    ],
)
def test_a_filter_is_understood(text, meaning):
    from appliance.query.select import KNOWN

    assert str(parse(text, KNOWN)) == meaning


def test_no_text_at_all_holds_for_everything():
    assert parse("  ") == Everything()


@pytest.mark.parametrize(
    ("text", "at", "says"),
    [
        ("src prt 10", "prt", "expected one of"),
        ("port 70000", "70000", "from 0 to 65535"),
        ("tcp and host 10.0.0.256", "10.0.0.256", "is not an address"),
        ("net 10.0.0.0/33", "10.0.0.0/33", "is not an address"),
        ("10.0.0.1", "10.0.0.1", "did you mean 'net 10.0.0.1'"),
        ("prot tcp", "prot", "did you mean proto"),
        ("(tcp", None, "expected ')'"),
        ("tcp)", ")", "expected 'and', 'or' or the end"),
        ("tcp udp", "udp", "expected 'and', 'or' or the end"),
        ("tcp and", None, "expected a term"),
        ("port in [80", "[", "without its closing ']'"),
        ("port in []", "[", "empty list"),
        ("bytes > lots", "lots", "is not a number"),
        ("src net > 10.0.0.0/8", ">", "use = or !="),
        ("port > [1 2]", "[", "a list can be compared"),
        ("vlan < 3-4", "3-4", "a range can be compared"),
        ("port 9-3", "9-3", "from low to high"),
        ('app "https', '"', "without its closing quote"),
        ('app > "x"', ">", "use = or !="),
        ("port ~ 8", "~", "only texts have patterns"),
        ("flags XYZ", "XYZ", "letters of FSRPAUECN"),
        ("tcp and no_such_column = 3", "no_such_column", "no term or column"),
        ("app & 3", "&", "not understood"),
        ("duration > 5 parsecs", "parsecs", "expected 'and'"),
        ("extra = 5", "=", "expected a key"),
        ("mac 00:11", "00:11", "is not a MAC address"),
    ],
)
def test_an_error_shows_where_and_what_was_expected(text, at, says):
    with pytest.raises(FilterError) as caught:
        parse(text)
    assert says in caught.value.message
    position = text.index(at) if at else len(text)
    assert caught.value.at == position
    line, caret = str(caught.value).splitlines()[-2:]
    assert line == f"  {text}"
    assert caret == "  " + " " * position + "^"


def test_an_error_in_a_long_filter_shows_its_own_line():
    with pytest.raises(FilterError) as caught:
        parse("tcp and\nport x")
    assert str(caught.value).splitlines()[-2:] == ["  port x", "       ^"]


def test_deep_nesting_is_refused_without_a_deep_recursion():
    assert parse("(" * (MAX_DEPTH - 1) + "tcp" + ")" * (MAX_DEPTH - 1))
    with pytest.raises(FilterError, match="nested deeper"):
        parse("(" * 60_000)
    with pytest.raises(FilterError, match="nested deeper"):
        parse("not " * 10_000 + "tcp")


def test_a_filter_says_which_columns_it_reads():
    assert reads(parse("src port 5 or not (bps > 1 and vlan 3)")) == {
        "src_port", "dst_port", "bytes", "start_ns", "end_ns", "vlan", "post_vlan", "dot1q_vlan",
    }  # fmt: skip


def test_every_canonical_column_can_be_named():
    samples = {"address": "::1", "text": '"x"', "hex": "ff", "mac": "aa:bb:cc:dd:ee:ff"}
    for name in CANONICAL.keys() - {"extra"}:
        from appliance.query.terms import column_field

        field = column_field(name, CANONICAL)
        assert field is not None, name
        value = "true" if name in ("from_frame", "uptime_lt_switched") else "1"
        node = parse(f"column {name} = {samples.get(field.kind.name, value)}")
        assert parse(str(node)) == node
        assert reads(node) == {name}
