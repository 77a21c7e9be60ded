from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from appliance.cli.config import config as config_command
from appliance.config import Config, ConfigError, ConfigInvalid, check, default, load
from appliance.config_locate import lines
from appliance.decode.limits import Limits as DecoderLimits


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def _write(text: str) -> Path:
        path = tmp_path / "tandem.toml"
        path.write_text(text)
        return path

    return _write


def only(errors: list[ConfigError]) -> ConfigError:
    assert len(errors) == 1, errors
    return errors[0]


def test_without_a_file_the_usual_ports_are_heard_on_both_families() -> None:
    heard = {(one.transport, str(one.address), one.port) for one in default().listener}
    assert heard == {
        ("udp", "::", 2055),
        ("udp", "::", 9995),
        ("udp", "::", 4739),
        ("udp", "::", 6343),
        ("tcp", "::", 4739),
    }


def test_an_empty_file_means_the_defaults(write: Any) -> None:
    assert load(write("")) == default()


def test_every_table_of_the_file_arrives_typed(write: Any, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("pen,id,name,type\n64999,1,colour,unsigned8\n")
    loaded = load(
        write(
            """
            data_dir = "state"
            allow = ["10.0.0.0/8", "2001:db8::/32"]
            [node]
            name = "a-1"
            [[listener]]
            port = 2056
            [[listener]]
            transport = "tcp"
            address = "127.0.0.1"
            port = 4739
            proxy_protocol = true
            [receive]
            shards = 2
            receive_buffer = "1.5 MiB"
            [store]
            retention_days = 7
            max_bytes = "2 GB"
            [[exporter]]
            address = "10.1.0.0/16"
            name = "site"
            sampling_rate = 1000
            [[exporter]]
            address = "10.1.2.3"
            name = "router"
            [elements]
            files = ["own.csv"]
            """
        )
    )
    assert loaded.data_dir == tmp_path / "state"
    assert loaded.allow == (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
    assert [(one.transport, one.port) for one in loaded.listener] == [("udp", 2056), ("tcp", 4739)]
    assert loaded.receive.receive_buffer == 3 * 2**19
    assert loaded.store.max_bytes == 2 * 10**9
    assert loaded.elements.files == (tmp_path / "own.csv",)
    router = loaded.exporter_of(ip_address("10.1.2.3"))
    other = loaded.exporter_of(ip_address("10.1.9.9"))
    assert router is not None
    assert router.name == "router"
    assert other is not None
    assert other.sampling_rate == 1000
    assert loaded.exporter_of(ip_address("10.2.0.1")) is None
    assert loaded.exporter_of(ip_address("2001:db8::1")) is None


@pytest.mark.parametrize(
    ("text", "line", "key", "said"),
    [
        ("\nalow = []", 2, "alow", "did you mean allow?"),
        ("[recieve]\nshards = 1", 1, "recieve", "did you mean receive?"),
        ("[receive]\nshrds = 1", 2, "receive.shrds", "did you mean shards?"),
        ("[receive]\nretention_days = 1", 2, "receive.retention_days", "belongs in [store]"),
        ("[api]\nallow = []", 2, "api.allow", "belongs at the top of the file"),
        ("[receive]\nshards = 0", 2, "receive.shards", "0 is below 1; use 1 or more"),
        ('[receive]\nshards = "5"', 2, "receive.shards", "without quotes"),
        ("[receive]\nshards = true", 2, "receive.shards", "whole number"),
        ('[journal]\nmax_bytes = "1 XB"', 2, "journal.max_bytes", '"512 MiB"'),
        ("[store]\nretention_days = 0", 2, "store.retention_days", "more than 0"),
        ("[[listener]]\nport = 1\n[[listener]]", 3, "listener[2].port", "add it"),
        ("[[listener]]\nport = 65536", 2, "listener[1].port", "65535 or less"),
        ('[[listener]]\nport = 1\ntransport = "sctp"', 3, "listener[1].transport", "'udp' or"),
        ("[[listener]]\nport = 1\nproxy_protocol = true", 1, "listener[1]", "TCP listeners only"),
        ("listener = 5", 1, "listener", "[[listener]]"),
        ("listener = []", 1, "listener", "at least 1"),
        ('allow = "10.0.0.0/8"', 1, "allow", "in square brackets"),
        ('allow = [\n"10.0.0.0/8",\n"10.0.0.1/8"]', 3, "allow[2]", '"10.0.0.0/8"?'),
        ('[[exporter]]\naddress = "r1"', 2, "exporter[1].address", "neither an IP address nor"),
        ('[api]\naddress = "192.0.2.1"', 1, "api", "expose = true"),
        ('[api]\naddress = "localhost"', 2, "api.address", "not an IP address"),
        ('[node]\nname = "a/b"', 2, "node.name", "letters, digits"),
        ("[receive]\nmin_workers = 3\nmax_workers = 2", 1, "receive", "above max_workers"),
        ("[receive]\nshards = 1\nmax_workers = 2", 1, "receive", "raise shards"),
        ('[elements]\nfiles = ["gone.csv"]', 2, "elements.files[1]", "there is no file"),
        ("a = b", 1, "", "texts need quotes"),
        ("[receive\n", 1, "", "not TOML"),
    ],
)
def test_an_error_names_line_key_and_remedy(
    write: Any, text: str, line: int, key: str, said: str
) -> None:
    path = write(text)
    error = only(check(path))
    assert (error.file, error.line, error.key) == (path, line, key)
    assert said in str(error)


def test_all_errors_of_a_file_are_told_at_once_in_order_of_lines(write: Any) -> None:
    errors = check(write("[store]\nretention_days = -1\n[receive]\nshards = 0\nshard = 1\n"))
    assert [e.line for e in errors] == [2, 4, 5]


def test_two_listeners_cannot_want_the_same_port(write: Any) -> None:
    both = '[[listener]]\nport = 2055\n[[listener]]\naddress = "{}"\nport = 2055\n'
    assert "both want udp port 2055" in str(only(check(write(both.format("127.0.0.1")))))
    apart = '[[listener]]\naddress = "127.0.0.1"\nport = 1\n[[listener]]\n'
    assert check(write(apart + 'address = "::1"\nport = 1')) == []
    assert check(write(apart + 'transport = "tcp"\nport = 1')) == []


def test_a_wrong_file_of_elements_is_named_with_its_line(write: Any, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("pen,id,name,type\n64999,1,colour,unsigned9\n")
    error = only(check(write('[elements]\nfiles = ["own.csv"]')))
    assert (error.line, error.key) == (2, "elements.files")
    assert f"{own}:2: type 'unsigned9'" in error.problem


def test_the_limits_reach_the_decoder(write: Any) -> None:
    limits = load(write("[limits]\nhold_seconds = 2\ntemplates_per_exporter = 7")).limits.decoder(1)
    assert (limits.held_ns, limits.templates_per_exporter) == (2 * 10**9, 7)
    assert default().limits.decoder(1) == DecoderLimits()


def test_an_exporter_is_described_once(write: Any) -> None:
    twice = '[[exporter]]\naddress = "10.0.0.1"\n' * 2
    assert "there twice" in str(only(check(write(twice))))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "no such file" in str(only(check(tmp_path / "none.toml")))
    assert "cannot be read" in str(only(check(tmp_path)))
    (tmp_path / "latin").write_bytes(b"# ok\n# caf\xe9")
    error = only(check(tmp_path / "latin"))
    assert error.line == 2
    with pytest.raises(ConfigInvalid, match="UTF-8"):
        load(tmp_path / "latin")


def test_one_shard_means_one_worker_by_default(write: Any) -> None:
    assert load(write("[receive]\nshards = 1")).receive.max_workers == 1
    assert load(write("[receive]\nmin_workers = 4")).receive.max_workers == 4


def test_the_digest_follows_the_values_not_their_spelling(write: Any) -> None:
    one = load(write('[journal]\nmax_bytes = "1 GiB"')).sha256()
    same = load(write(f"journal = {{ max_bytes = {2**30} }} # in bytes")).sha256()
    other = load(write('[journal]\nmax_bytes = "1 GB"')).sha256()
    assert one == same
    assert one != other


def test_state_is_kept_where_the_unit_or_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    assert Config().data_dir == Path("/home/u/.local/state/tandem")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/u/state")
    assert Config().data_dir == Path("/home/u/state/tandem")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/tandem")
    assert Config().data_dir == Path("/var/lib/tandem")


def test_places_are_found_in_any_style_of_toml() -> None:
    text = '''# a comment with [brackets] and = signs
top.dotted."quoted key" = """
not = a key
[nor] ""a"" table"""  # a = comment
'lit\\eral' = 'C:\\'
when = 2024-01-01T00:00:00Z
array = [ # [
  "a # no comment", ["b\\"]",
  1.5],
]
inline = { x = 1, y.z = [
  2] }

[plain . table]
k = -inf
[[items]]
[items.sub]
k = true
[[items]]
[[items.more]]
[[items.more]]
k = 1\r
last = 2'''
    assert lines(text) == {
        ("top", "dotted", "quoted key"): 2,
        ("lit\\eral",): 5,
        ("when",): 6,
        ("array",): 7,
        ("array", 0): 8,
        ("array", 1): 8,
        ("array", 1, 0): 8,
        ("array", 1, 1): 9,
        ("inline",): 11,
        ("inline", "x"): 11,
        ("inline", "y", "z"): 11,
        ("inline", "y", "z", 0): 12,
        ("plain", "table"): 14,
        ("plain", "table", "k"): 15,
        ("items", 0): 16,
        ("items", 0, "sub"): 17,
        ("items", 0, "sub", "k"): 18,
        ("items", 1): 19,
        ("items", 1, "more", 0): 20,
        ("items", 1, "more", 1): 21,
        ("items", 1, "more", 1, "k"): 22,
        ("items", 1, "more", 1, "last"): 23,
    }


def test_config_check_prints_a_summary_or_every_error(write: Any) -> None:
    good = CliRunner().invoke(config_command, ["check", str(write('allow = ["10.0.0.0/8"]'))])
    assert good.exit_code == 0
    assert "OK" in good.output
    assert "10.0.0.0/8" in good.output
    bad = CliRunner().invoke(config_command, ["check", str(write("a = 1\nb = 2"))])
    assert bad.exit_code == 1
    assert "tandem.toml:1: a: unknown key" in bad.output
    assert "2 errors" in bad.output


def test_the_example_of_the_documentation_is_valid(write: Any, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    text = page.read_text().partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "own-elements.csv").write_text("pen,id,name,type\n")
    loaded = load(write(text))
    described = set(loaded.model_dump()) - {"data_dir"}
    assert {table for table in described if f"[{table}]" in text or f"{table} =" in text} == (
        described
    )
