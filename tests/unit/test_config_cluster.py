from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance.config import check, default, load

FILE = """data_dir = "{data}"
[node]
name = "{name}"
[api]
token_file = "tokens"
[cluster]
name = "lab"
ca = "ca.pem"
certificate = "node.pem"
key = "node.key"
[[cluster.node]]
name = "n1"
address = "10.77.0.11"
[[cluster.node]]
name = "n2"
address = "10.77.0.12"
[[cluster.vip]]
name = "v1"
addresses = ["10.77.0.101", "fd77::101"]
[[cluster.vip]]
name = "v2"
addresses = ["10.77.0.102"]
"""


def text(old: str = "", new: str = "", name: str = "n1", data: str = "a") -> str:
    found = FILE.format(name=name, data=data)
    assert old in found
    return found.replace(old, new, 1) if old else found


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def _write(content: str) -> Path:
        path = tmp_path / "tandem.toml"
        path.write_text(content)
        return path

    return _write


def test_a_cluster_is_read_without_looking_for_its_files(write: Any, tmp_path: Path) -> None:
    cluster = load(write(text())).cluster
    assert cluster is not None
    assert (cluster.port, cluster.ca) == (8444, tmp_path / "ca.pem")
    assert [n.name for n in cluster.node] == ["n1", "n2"]
    assert [str(a) for a in cluster.vip[0].addresses] == ["10.77.0.101", "fd77::101"]
    assert default().cluster is None


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "said"),
    [
        ('"n2"', '"n1"', 11, "cluster.node", "2 times the same name n1"),
        ('"10.77.0.12"', '"10.77.0.11"', 11, "cluster.node", "2 times the same address"),
        ('"v2"', '"v1"', 17, "cluster.vip", "2 times the same name v1"),
        ('"10.77.0.102"', '"10.77.0.101"', 17, "cluster.vip", "2 times the same address"),
        ('"10.77.0.102"', '"10.77.0.12"', 6, "cluster", "both VIP v2 and node n2"),
        ('"10.77.0.102"', '"10.77.0.102", "10.77.0.103"', 22, "cluster.vip[2].addresses",
         "more than one address of a family"),
        ('["10.77.0.102"]', "[]", 22, "cluster.vip[2].addresses", "without an address"),
        ('"v2"', '"../v2"', 21, "cluster.vip[2].name", "letters, digits"),
        ('"10.77.0.12"', '"::"', 16, "cluster.node[2].address", "not the address of one node"),
        ('name = "n1"\n[api]', 'name = "n9"\n[api]', 6, "cluster", "name of this node, n9"),
        ('"lab"', '"lab"\nport = 4739', 6, "cluster", "port 4739 is also that of a [[listener]]"),
        ('token_file', 'address = "0.0.0.0"\nport = 8444\ntoken_file', 8, "cluster",
         "port 8444 is also that of [api]"),
        ('address = "10.77.0.12"', 'adress = "10.77.0.12"', 14, "cluster.node[2].address",
         "add it"),
        ('ca = "ca.pem"\n', "", 6, "cluster.ca", "add it"),
    ],
)  # fmt: skip
def test_an_error_in_the_cluster_names_line_key_and_remedy(
    write: Any, old: str, new: str, line: int, key: str, said: str
) -> None:
    errors = check(write(text(old, new)))
    assert errors
    assert (errors[0].line, errors[0].key) == (line, key), errors
    assert said in str(errors[0])


def test_a_misspelt_key_of_a_table_within_a_table_is_understood(write: Any) -> None:
    (error,) = check(write(text('name = "v2"', 'name = "v2"\nadresses = []')))
    assert "did you mean addresses?" in str(error)
    (error,) = check(write(text('"lab"', '"lab"\nnodes = []')))
    assert "did you mean node?" in str(error)


def test_a_list_of_tables_that_is_none_is_explained(write: Any) -> None:
    content = text()
    start = content.index("[[cluster.node]]")
    end = content.index("[[cluster.vip]]")
    (error,) = check(write(content[:start] + "node = 5\n" + content[end:]))
    assert "write it as [[cluster.node]]" in str(error)


def test_an_api_for_others_needs_a_token_or_the_word_expose(write: Any) -> None:
    other = '[api]\naddress = "192.0.2.1"\n'
    assert "set token_file" in str(check(write(other))[0])
    assert check(write(other + "expose = true")) == []
    assert check(write(other + 'token_file = "tokens"')) == []


def test_the_shared_digest_is_of_what_nodes_must_have_in_common(write: Any) -> None:
    one = load(write(text())).shared_sha256()
    assert load(write(text(name="n2", data="b"))).shared_sha256() == one
    assert load(write(text() + "[receive]\nmax_workers = 1")).shared_sha256() == one
    for old, new in (
        ("10.77.0.102", "10.77.0.103"),
        ('"lab"', '"lab"\nport = 9000'),
        ("[api]", "[store]\nretention_days = 3\n[api]"),
        ("[api]", "[[listener]]\nport = 2055\n[api]"),
    ):
        assert load(write(text(old, new))).shared_sha256() != one, new
