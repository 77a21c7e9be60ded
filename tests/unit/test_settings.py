"""Settings over the file: what may be set, what then holds, and what a change does."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from appliance import settings as layer
from appliance.children import fork
from appliance.cli.config import config as config_command
from appliance.config import ConfigFile, ConfigInvalid, load, read, read_file
from appliance.config_errors import model_of
from appliance.config_model import Config
from appliance.settings import Settings, diff, patched
from appliance.settings.changes import for_maintenance, for_workers, pending_restart, usable
from appliance.settings.layers import flat

FILE = """
allow = ["10.0.0.0/8"]
[[listener]]
port = 2055
[store]
retention_days = 30
max_bytes = "2 GiB"
[[exporter]]
address = "10.1.0.0/16"
name = "campus"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tandem.toml"


def write(path: Path, text: str = FILE) -> ConfigFile:
    path.write_text(f'{text}\n[api]\nstate_dir = "{path.parent}"\n')
    return read_file(path)


def keep(file: ConfigFile, document: Settings) -> Path:
    where = layer.path_of(file.config)
    layer.save(where, document)
    return where


def refused(settings: dict[str, Any], file: ConfigFile) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        patched(Settings(), settings, file)
    (error,) = caught.value.errors
    return f"{error.key}: {error.problem}; {error.remedy}"


def test_a_setting_holds_over_the_file_and_the_file_over_the_default(path: Path) -> None:
    file = write(path)
    document = patched(
        Settings(), {"store": {"retention_days": 7}, "metrics": {"exporters": 5}}, file
    )
    layers = layer.lay(file, document)
    assert layers.config.store.retention_days == 7
    assert layers.config.store.max_bytes == 2 * 2**30
    assert layers.config.metrics.exporters == 5
    sources = layers.sources
    assert sources["store.retention_days"] == sources["metrics.exporters"] == "settings"
    assert sources["store.max_bytes"] == sources["allow"] == sources["api.state_dir"] == "file"
    assert sources["limits.templates"] == sources["node.name"] == "default"
    assert sources.keys() == flat(layers.config).keys()


def test_a_list_replaces_the_one_of_the_file(path: Path) -> None:
    file = write(path)
    document = patched(Settings(), {"listener": [{"port": 9995}], "allow": []}, file)
    config = layer.lay(file, document).config
    assert [one.port for one in config.listener] == [9995]
    assert config.allow == ()


def test_every_key_of_the_file_is_settable_or_refused_with_a_place_to_change_it(
    path: Path,
) -> None:
    file = write(path)
    settable = set()
    for name, field in Config.model_fields.items():
        table = model_of(field.annotation)
        inner = table.model_fields if table and name not in ("listener", "exporter") else None
        for key in [f"{name}.{one}" for one in inner] if inner else [name]:
            top, _, rest = key.partition(".")
            if key in layer.SETTABLE:
                settable.add(key)
                continue
            said = refused({top: {rest: 1}} if rest else {top: 1}, file)
            assert said.startswith(f"{key}: it cannot be set while the node runs: ")
            assert "inventory" in said or "the file" in said
    assert settable == layer.SETTABLE


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ({"alow": []}, "alow: unknown key; did you mean allow?"),
        ({"limits": {"template": 1}}, "limits.template: unknown key; did you mean templates?"),
        ({"store": 5}, "store: 5 is not enough here; use an object with the keys to set"),
        ({"allow": "10.0.0.0/8"}, "allow: '10.0.0.0/8' is not enough here; use a list"),
        ({"allow": ["10.0.0.1/8"]}, 'allow[1]: \'10.0.0.1/8\' has bits set beyond its prefix; did'),
        ({"listener": [{"port": 0}]}, "listener[1].port: 0 is below 1; use 1 or more"),
        ({"listener": []}, "listener: nothing to listen on; list at least 1"),
        ({"listener": [{"port": 1}, {"port": 1}]}, "listener: listeners 1 and 2 both want udp"),
        ({"store": {"retention_days": "7"}}, "store.retention_days: '7' is of the wrong type"),
        ({"exporter": [{"address": "10.1.1.1", "rate": 5}]}, "exporter[1].rate: unknown key"),
        (["allow"], ": a patch is an object"),
        ({"listener": [5]}, "listener: [5] is not enough here; use a list of objects"),
        ({"store.retention_days": 5}, "store.retention_days: unknown key; write tables as objects"),
        ({"store": {"a.b": 5}}, "store.a.b: unknown key; known here: retention_days, "),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_and_the_remedy(path: Path, patch: Any, said: str) -> None:
    assert refused(patch, write(path)).startswith(said)


def test_a_null_lets_the_value_of_the_file_be_seen_again(path: Path) -> None:
    file = write(path)
    one = patched(Settings(), {"store": {"retention_days": 7, "flush_seconds": 2}}, file)
    two = patched(one, {"store": {"retention_days": None}}, file)
    assert two.values == {"store": {"flush_seconds": 2}}
    assert layer.lay(file, two).config.store.retention_days == 30
    three = patched(two, {"store": {"flush_seconds": None}, "node": None}, file)
    assert (three.version, three.values, three.beneath) == (3, {}, {})


def test_a_null_in_a_document_written_by_hand_is_refused(path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"store\.max_bytes: null is no value; leave"):
        layer.lay(write(path), Settings(values={"store": {"max_bytes": None}}))


def test_a_file_that_changes_beneath_a_setting_has_drifted(path: Path) -> None:
    document = patched(Settings(), {"store": {"retention_days": 7, "max_bytes": "1 GiB"}},
                       write(path))  # fmt: skip
    assert layer.drift(document, write(path, FILE.replace('"2 GiB"', str(2**31)))) == []
    file = write(path, FILE.replace("= 30", "= 90"))
    (drift,) = layer.drift(document, file)
    assert (drift.key, drift.setting, drift.was, drift.now) == ("store.retention_days", 7, 30, 90)

    adopted = layer.adopt(document, [drift.key], file)
    assert layer.drift(adopted, file) == []
    assert layer.lay(file, adopted).config.store.retention_days == 7
    assert layer.drift(adopted, write(path)) != []

    dropped = layer.reset(document, [drift.key], file)
    assert layer.drift(dropped, file) == []
    assert layer.lay(file, dropped).config.store.retention_days == 90
    assert dropped.values == {"store": {"max_bytes": "1 GiB"}}
    assert document.version + 1 == adopted.version == dropped.version
    for change in (layer.adopt, layer.reset):
        with pytest.raises(ConfigInvalid, match=r"allow: is not set by the settings; set now: sto"):
            change(document, ["allow"], file)


def test_a_key_that_is_set_again_is_seen_with_the_file_of_now(path: Path) -> None:
    both = {"store": {"retention_days": 7}, "allow": ["10.0.0.0/9"]}
    document = patched(Settings(), both, write(path))
    later = write(path, FILE.replace("= 30", "= 90").replace("10.0.0.0/8", "10.0.0.0/12"))
    again = patched(document, {"store": {"retention_days": 8}, "allow": ["10.0.0.0/9"]}, later)
    assert [d.key for d in layer.drift(again, later)] == ["allow"]


def test_the_document_is_kept_whole_and_readable_for_the_group_only(path: Path) -> None:
    file = write(path)
    where = layer.path_of(file.config)
    assert layer.load(where) == Settings()
    document = patched(Settings(), {"allow": ["192.0.2.0/24"]}, file)
    keep(file, document)
    assert layer.load(where) == document
    assert where.stat().st_mode & 0o777 == 0o640
    where.write_text(json.dumps({**document.model_dump(), "by": "a later release"}))
    assert layer.load(where) == document


@pytest.mark.skipif(os.geteuid() != 0, reason="other users need root")
def test_the_collector_reads_what_the_api_writes_in_its_state_directory() -> None:
    """As on a node: different users, one group, UMask=0027, a directory of mode 0750."""
    with tempfile.TemporaryDirectory() as outer:
        os.chmod(outer, 0o755)
        state = Path(outer) / "tandem-api"
        state.mkdir(mode=0o750)
        os.chown(state, 65531, 65530)

        def writes() -> None:
            layer.save(state / "settings.json", Settings(version=3))

        def reads() -> None:
            assert layer.load(state / "settings.json").version == 3

        def cannot_read() -> None:
            with pytest.raises(ConfigInvalid, match=r"the collector.s user needs to be in"):
                reads()

        for user, group, work in ((65531, 65530, writes), (65532, 65530, reads),
                                  (65532, 65533, cannot_read)):  # fmt: skip

            def body(user: int = user, group: int = group, work: Any = work) -> None:
                os.umask(0o027)
                os.setgroups([])
                os.setgid(group)
                os.setuid(user)
                work()

            child = fork(body, None)
            assert os.waitpid(child.pid, 0)[1] == 0


def test_the_configuration_honours_the_document(path: Path) -> None:
    file = write(path)
    assert load(path) == file.config
    keep(file, patched(Settings(), {"store": {"retention_days": 7}}, file))
    assert load(path).store.retention_days == 7
    loaded = read(path)
    assert (loaded.settings.version, loaded.problem) == (1, "")
    assert loaded.file.config.store.retention_days == 30


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "settings.json: is no settings document: Invalid JSON"),
        ('{"version": "1"}', "settings.json: is no settings document: version: "),
        ('{"values": {"node": {"name": "b"}}}', "node.name: it cannot be set while the node runs"),
        ('{"values": {"store": {"retention_days": -1}}}', "store.retention_days: -1 is not above"),
        ('{"values": {"exporter": [{"address": "10.1.0.0/16"}, {"address": "10.1.0.0/16"}]}}',
         "exporter: 10.1.0.0/16 is there twice; join"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_leave_the_file(path: Path, text: str, said: str) -> None:
    file = write(path)
    layer.path_of(file.config).write_text(text)
    loaded = read(path)
    assert (loaded.config, loaded.settings) == (file.config, Settings())
    assert said in loaded.problem
    checked = CliRunner().invoke(config_command, ["check", str(path)])
    assert checked.exit_code == 0
    assert "settings cannot be used" in checked.output


def test_settings_that_the_file_no_longer_goes_with_leave_the_file(path: Path) -> None:
    file = write(path)
    keep(file, patched(Settings(), {"listener": [{"transport": "tcp", "port": 4739}]}, file))
    assert read(path).problem == ""
    write(path, FILE + f'[health]\ndirectory = "{path.parent}"\n')
    loaded = read(path)
    assert "health: no UDP listener" in loaded.problem
    assert loaded.config == loaded.file.config


def test_settings_that_cannot_be_read_are_a_problem_not_an_end(path: Path) -> None:
    file = write(path)
    layer.path_of(file.config).mkdir()
    assert "settings.json: cannot be read: Is a directory" in read(path).problem


def test_a_change_says_what_the_collector_does_with_it(path: Path) -> None:
    before = write(path, FILE + "[receive]\nmax_workers = 1\n").config
    text = FILE.replace("10.0.0.0/8", "10.0.0.0/9").replace("= 2055", "= 2056")
    after = write(path, text + '[node]\nname = "b"\n[receive]\nshards = 8\nmax_workers = 1\n'
                  f'[health]\ndirectory = "{path.parent}"\n').config  # fmt: skip
    found = {c.key: (c.before, c.after, c.effect) for c in diff(before, after)}
    assert found == {
        "allow": (["10.0.0.0/8"], ["10.0.0.0/9"], "live"),
        "health.directory": (None, str(path.parent), "restart"),
        "health.hung_seconds": (None, 0.5, "restart"),
        "listener": (flat(before)["listener"], flat(after)["listener"], "live"),
        "node.name": (before.node.name, "b", "restart"),
        "receive.shards": (4, 8, "restart"),
    }
    assert set(pending_restart(before, after)) == {
        "health.directory",
        "node.name",
        "receive.shards",
    }
    now = usable(before, after)
    assert (now.node, now.receive) == (before.node, before.receive)
    assert (now.allow, now.listener) == (after.allow, after.listener)


def test_only_those_processes_are_replaced_that_use_what_has_changed(path: Path) -> None:
    def parts(text: str) -> tuple[object, object]:
        config = write(path, text).config
        return for_workers(config), for_maintenance(config)

    workers, maintenance = parts(FILE)
    assert parts(FILE.replace("= 30", "= 7"))[0] == workers
    assert parts(FILE.replace("= 30", "= 7"))[1] != maintenance
    assert parts(FILE.replace("campus", "site")) == (workers, maintenance)
    for changed in (
        FILE.replace("10.0.0.0/8", "10.0.0.0/9"),
        FILE.replace("2055", "2056"),
        FILE + "sampling_rate = 10\n",
        FILE + "[limits]\nhold_seconds = 5\n",
        FILE.replace("[store]", "[store]\nflush_seconds = 2"),
    ):
        assert parts(changed)[0] != workers
        assert parts(changed)[1] == maintenance
