"""The registry of information elements."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.decode.elements import DATA, Element, Registry, RegistryError, snake_case
from appliance.schema import ABSTRACT_TYPES, column_type

HEADER = "pen,id,name,type,column,protocol\n"


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load()


def user_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("id_", "name", "type_", "column"),
    [
        (1, "octetDeltaCount", "unsigned64", "bytes"),
        (4, "protocolIdentifier", "unsigned8", "protocol"),
        (8, "sourceIPv4Address", "ipv4Address", "src_addr"),
        (27, "sourceIPv6Address", "ipv6Address", "src_addr"),
        (82, "interfaceName", "string", "interface_name"),
        (85, "octetTotalCount", "unsigned64", "octet_total_count"),
        (152, "flowStartMilliseconds", "dateTimeMilliseconds", "flow_start_milliseconds"),
        (236, "VRFname", "string", "vrf_name"),
        (292, "subTemplateList", "subTemplateList", "sub_template_list"),
        (315, "dataLinkFrameSection", "octetArray", "data_link_frame_section"),
        (433, "ignoredLayer2FrameTotalCount", "unsigned64", "ignored_layer2_frame_total_count"),
    ],
)
def test_iana_elements_have_their_official_names(
    registry: Registry, id_: int, name: str, type_: str, column: str
):
    assert registry.get(0, id_) == Element(0, id_, name, type_, column)
    assert registry.get(0, id_, v9=True) == registry.get(0, id_)


def test_every_assigned_iana_element_is_there(registry: Registry):
    # unassigned, reserved for v9, or withdrawn
    gaps = {*range(65, 70), 97, *range(105, 128), 416, 419}
    assert {i for i in range(1, 512) if registry.get(0, i) is None} == gaps


def test_an_unknown_element_is_none(registry: Registry):
    assert registry.get(0, 32000) is None
    assert registry.get(4_000_000_000, 1) is None
    assert registry.get(29305, 32000) is None


def test_every_element_fits_the_schema(registry: Registry):
    types: dict[str, set[str]] = {}
    for element in registry:
        assert element.type in ABSTRACT_TYPES, element
        if column_type(element.column) is None:
            types.setdefault(element.column, set()).add(str(ABSTRACT_TYPES[element.type]))
    assert {c: t for c, t in types.items() if len(t) > 1} == {}


def test_no_file_gives_an_element_twice():
    for path in DATA.glob("*.csv"):
        keys = [
            (line.split(",")[0], line.split(",")[1], line.endswith(",v9"))
            for line in path.read_text().splitlines()
            if not line.startswith("#")
        ]
        assert len(keys) == len(set(keys)), path.name


def test_the_reverse_of_an_element_is_a_reverse_column(registry: Registry):
    assert registry.get(29305, 1) == Element(
        29305, 1, "reverseOctetDeltaCount", "unsigned64", "rev_bytes"
    )


@pytest.mark.parametrize(
    ("id_", "pen", "name"),
    [
        (40005, 0, "nselFirewallEvent"),  # Cisco ASA
        (45000, 9, "applicationCategoryName"),  # 0x8000 + 12232: NBAR in v9
        (57591, 35632, "L7_PROTO_NAME"),  # 57472 + 119: nProbe in v9
        (56701, 0, "appId"),  # Palo Alto
    ],
)
def test_v9_has_field_types_of_vendors_that_ipfix_has_not(
    registry: Registry, id_: int, pen: int, name: str
):
    found = registry.get(0, id_, v9=True)
    assert found is not None
    assert (found.pen, found.name) == (pen, name)
    assert registry.get(0, id_) is None


def test_tunnelled_tuples_of_vendors_fill_the_inner_columns(registry: Registry):
    for pen, id_, column in ((6876, 881, "inner_src_addr"), (35632, 117, "inner_dst_port")):
        found = registry.get(pen, id_)
        assert found is not None
        assert found.column == column


def test_a_user_file_adds_and_overrides_elements(tmp_path: Path):
    path = user_file(
        tmp_path,
        HEADER
        + "# ours\n\n"
        + "64999,7,rackName,string,,\n"
        + "0,82,portName,string,in_if_name,\n"
        + "0,99,replicas,unsigned32,,v9\n",
    )
    registry = Registry.load([path])
    assert registry.get(64999, 7) == Element(64999, 7, "rackName", "string", "rack_name")
    assert registry.get(0, 82) == Element(0, 82, "portName", "string", "in_if_name")
    assert registry.get(0, 99, v9=True) == Element(0, 99, "replicas", "unsigned32", "replicas")
    multicast = registry.get(0, 99)
    assert multicast is not None
    assert multicast.name == "multicastReplicationFactor"


def test_the_last_two_columns_may_be_left_out(tmp_path: Path):
    path = user_file(tmp_path, "pen,id,name,type\n64999,7,rackName,string\n")
    assert Registry.load([path]).get(64999, 7) is not None


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("64999,7,rackName", "3 values for 6 columns"),
        ("64999,seven,rackName,string,,", "id 'seven' is not a number from 1 to 32767"),
        ("64999,40000,rackName,string,,", "id '40000' is not a number from 1 to 32767"),
        ("64999,²,rackName,string,,", "id '²' is not a number"),
        ("-1,7,rackName,string,,", "pen '-1' is not a number from 0 to 4294967295"),
        ("64999,7,rackName,text,,", "type 'text' is not known; write one of octetArray, "),
        ("64999,7,,string,,", "name is empty; give the element's name"),
        ("64999,7,rackName,string,Rack Name,", "column 'Rack Name' is no column name"),
        ("64999,7,rackName,string,,v10", "protocol 'v10'; write v9 or leave it empty"),
        ("64999,7,rackName,string,,v9", "pen 64999 with protocol v9, which has none; write pen 0"),
        ("64999,7,bytes,unsigned64,,", "name 'bytes' would fill column 'bytes'"),
        ("64999,7,rackName,string,igmp_type,", "column 'igmp_type' is of type unsigned8"),
    ],
)
def test_a_bad_line_of_a_user_file_is_named_with_its_remedy(tmp_path: Path, row: str, says: str):
    path = user_file(tmp_path, HEADER + "64999,8,siteName,string,,\n" + row + "\n")
    with pytest.raises(RegistryError) as caught:
        Registry.load([path])
    assert str(caught.value).startswith(f"{path}:3: {says}")


def test_a_bad_first_line_is_named_with_its_remedy(tmp_path: Path):
    for header in ("", "id,name\n", "pen,id,name,type,colour\n", "pen,id,name,type,type\n"):
        path = user_file(tmp_path, header)
        with pytest.raises(RegistryError, match=r"mine\.csv:1: the first line .*; write 'pen,"):
            Registry.load([path])


def test_an_unreadable_file_is_named(tmp_path: Path):
    with pytest.raises(RegistryError, match=r"absent\.csv: cannot be read"):
        Registry.load([tmp_path / "absent.csv"])
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"pen,id,name,type\n1,2,\xff,string\n")
    with pytest.raises(RegistryError, match=r"binary\.csv: cannot be read"):
        Registry.load([binary])


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("ipNextHopIPv6Address", "ip_next_hop_ipv6_address"),
        ("mplsTopLabelTTL", "mpls_top_label_ttl"),
        ("ingressVRFID", "ingress_vrfid"),
        ("postMCastOctetDeltaCount", "post_mcast_octet_delta_count"),
        ("IPSecSPI", "ipsec_spi"),
        ("HTTP_HOST", "http_host"),
        ("user-agent string", "user_agent_string"),
    ],
)
def test_names_become_readable_columns(name: str, column: str):
    assert snake_case(name) == column
