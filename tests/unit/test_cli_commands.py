"""The command line: what it prints, where it looks, and how it fails."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance.cli.lazy import SECTIONS
from appliance.cli.main import tandem
from tests.builders import v5, v5_record
from tests.unit.node_samples import write_shard
from tests.unit.query_samples import SECOND, T0, record, rows, store

ALL = [name for section in SECTIONS.values() for name in section]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Flow records of the last minute, and one whose sampling rate is not known."""
    now = time.time_ns() - 30 * SECOND
    made = [
        record(0, src_addr="10.0.0.1", dst_addr="10.0.0.9", dst_port=443, protocol=6, tcp_flags=18,
               bytes=2_000_000, packets=10, src_mac=0xAABBCCDDEEFF, extra=[("9.1", "ff")],
               in_if=1, out_if=2),
        record(1, src_addr="2001:db8::1", dst_port=53, protocol=17, bytes=10, packets=1,
               sampling_source=0, sampling_rate=None),
    ]  # fmt: skip
    for one in made:
        one["received_ns"] += now - T0
    return store(tmp_path, rows(made))


def call(*args: str, env: dict[str, str] | None = None):
    clean = {"TANDEM_DATA_DIR": None, "TANDEM_CONFIG": None, **(env or {})}
    return CliRunner().invoke(tandem, list(args), env=clean, prog_name="tandem")


def ask(data: Path, *args: str):
    return call(*args, "--data-dir", str(data))


@pytest.mark.parametrize("name", ALL)
def test_every_command_is_there_and_explains_itself(name):
    found = call(name, "--help")
    assert found.exit_code == 0, found.output
    assert found.output.startswith(f"Usage: tandem {name}")


def test_the_help_lists_all_commands_and_imports_none_of_them():
    code = (
        "import sys\nfrom appliance.cli.main import main\ntry:\n    main(['--help'])\n"
        "except SystemExit as leave:\n    assert not leave.code\n"
        "heavy = {'duckdb', 'pyarrow', 'numpy', 'rich', 'pydantic', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    for name in ALL:
        assert f"  {name} " in found.stdout


def test_top_shows_a_table_and_says_what_is_not_scaled(data):
    found = ask(data, "top")
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    assert lines[0].split()[:3] == ["source", "bytes", "packets"]
    assert lines[1].split()[:3] == ["10.0.0.1", "2.00M", "10"]
    assert "1 of 2 (50.0%) flows have an unknown sampling rate" in found.stderr


def test_json_is_one_object_a_line_with_plain_values(data):
    found = ask(data, "flows", "--columns", "all", "--json")
    newest, oldest = (json.loads(line) for line in found.stdout.splitlines())
    assert newest["src_addr"] == "2001:db8::1"
    assert oldest["src_mac"] == "aa:bb:cc:dd:ee:ff"
    assert oldest["extra"] == {"9.1": "ff"}
    assert oldest["bytes"] == 2_000_000


def test_csv_has_a_header_and_the_same_values(data):
    found = ask(data, "top", "--by", "dst_port,proto", "--csv")
    read = list(csv.DictReader(io.StringIO(found.stdout)))
    assert [(r["dst_port"], r["protocol"], r["bytes"]) for r in read] == [
        ("443", "6", "2000000"),
        ("53", "17", "10"),
    ]


def test_flows_show_protocols_flags_and_unknown_sampling_as_words(data):
    text = ask(data, "flows").stdout.splitlines()
    assert "udp" in text[1]
    assert "unknown" in text[1]
    assert "tcp" in text[2]
    assert "AS" in text[2].split()
    assert "1/1" in text[2].split()


def test_a_filter_may_be_several_words(data):
    found = ask(data, "top", "--json", "src", "net", "10.0.0.0/8", "and", "tcp")
    assert [json.loads(line)["src_addr"] for line in found.stdout.splitlines()] == ["10.0.0.1"]


def test_the_next_page_follows_from_the_token(data):
    first = ask(data, "flows", "-n", "1", "--json")
    token = first.stderr.split("--after ")[1].strip()
    second = ask(data, "flows", "-n", "1", "--json", "--after", token)
    assert json.loads(second.stdout)["src_addr"] == "10.0.0.1"
    assert "--after" not in second.stderr


def test_series_interfaces_exporters_and_sql_answer(data):
    assert "bit/s" in ask(data, "series").stdout
    assert "443" in ask(data, "series", "--by", "dst_port").stdout.splitlines()[0]
    assert "p95 bps" in ask(data, "interfaces").stdout
    assert "unknown for 50.0%" in ask(data, "exporters").stdout
    found = ask(data, "sql", "select ip(src_addr) as a from flows order by bytes", "--json")
    assert json.loads(found.stdout.splitlines()[0]) == {"a": "2001:db8::1"}


def test_a_wide_table_is_shown_without_its_empty_columns(data):
    found = ask(data, "sql", "select * from flows")
    assert "dst_port" in found.stdout.splitlines()[0]
    assert "inner" not in found.stdout
    assert "columns without any value are not shown" in found.stderr


def test_sql_shows_the_names_of_its_columns_and_numbers_at_the_right(data):
    found = ask(data, "sql", "select dst_port, sum(bytes) as all_bytes from flows group by 1")
    assert found.stdout.splitlines()[0] == "dst_port  all_bytes"
    assert "      53         10" in found.stdout.splitlines()


def test_control_characters_of_exporters_do_not_reach_the_terminal(tmp_path):
    made = rows([{**record(0, app_name="\x1b[2Jboo[bold]"), "received_ns": time.time_ns()}])
    found = ask(store(tmp_path, made), "flows", "--columns", "app_name")
    assert "\x1b" not in found.stdout
    assert "boo[bold]" in found.stdout


@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        (["top", "prot tcp"], 2, "no term or column is called 'prot'"),
        (["top", "--last", "soon"], 2, "'soon' is not a duration"),
        (["top", "--since", "soon"], 2, "'soon' is not a time"),
        (["top", "--since", "1h", "--last", "1h"], 2, "leave one out"),
        (["top", "--since", "1h", "--until", "2h"], 2, "ends before it begins"),
        (["top", "--metric", "money"], 2, "money"),
        (["top", "--by", "money"], 1, "no column is called 'money'"),
        (["series", "--step", "x"], 2, "'x' is not a duration"),
        (["flows", "--after", "x"], 1, "no token of a page"),
        (["sql", "drop table flows"], 1, "only SELECT"),
        (["top", "--json", "--csv"], 2, "exclude each other"),
        (["ledger", "--exporter", "core1"], 2, "'core1' is not an IP address"),
        (["templates", "--exporter", "core1"], 2, "'core1' is not an IP address"),
        (["tpo"], 2, "Did you mean 'top'?"),
        (["top", "--nonsense"], 2, "No such option"),
    ],
)
def test_errors_say_what_is_wrong_without_a_traceback(data, args, status, says):
    found = call(*args, env={"TANDEM_DATA_DIR": str(data)})
    assert found.exit_code == status, found.output
    assert says in found.stderr
    assert "Traceback" not in found.stderr
    assert not found.stdout


def test_the_ledger_is_in_the_order_of_addresses_and_of_one_exporter(tmp_path):
    for k, exporter in enumerate(("10.0.0.10", "10.0.0.9", "2001:db8::1")):
        write_shard(tmp_path, k, [(exporter, v5([v5_record()]))])
    lines = ask(tmp_path, "ledger").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["10.0.0.9", "10.0.0.10", "2001:db8::1"]
    assert "NetFlow v5" in lines[1]
    found = ask(tmp_path, "ledger", "--exporter", "::ffff:10.0.0.9", "--json")
    assert [json.loads(line)["exporter"] for line in found.stdout.splitlines()] == ["10.0.0.9"]
    found = ask(tmp_path, "ledger", "--exporter", "10.0.0.11")
    assert found.stderr == "nothing was received from 10.0.0.11 yet\n"


def test_no_data_is_explained(tmp_path):
    found = ask(tmp_path / "nowhere", "top")
    assert found.exit_code == 1
    assert "tandem run" in found.stderr
    found = ask(tmp_path, "top")
    assert found.exit_code == 0
    assert "the store is empty" in found.stderr


def test_flows_out_of_the_window_are_mentioned(tmp_path):
    found = ask(store(tmp_path, rows([record(0, bytes=1)])), "top")
    assert "the newest one arrived" in found.stderr
    assert ask(tmp_path, "top", "--last", "all", "--json").stdout


def test_the_data_directory_comes_from_the_option_the_environment_or_the_configuration(
    data, tmp_path
):
    config = tmp_path / "tandem.toml"
    config.write_text(f'data_dir = "{data}"\n')
    for args, env in (
        (["--data-dir", str(data)], {"TANDEM_DATA_DIR": "/nowhere"}),
        ([], {"TANDEM_DATA_DIR": str(data)}),
        (["--config", str(config)], {}),
        ([], {"TANDEM_CONFIG": str(config)}),
    ):
        assert "10.0.0.1" in call("top", *args, env=env).stdout


def test_a_reader_that_has_seen_enough_is_no_error(data):
    command = [sys.executable, "-m", "appliance.cli", "sql", "select range from range(200000)",
               "--json", "--data-dir", str(data)]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b'{"range": 0}\n'
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait() in (0, 1)
