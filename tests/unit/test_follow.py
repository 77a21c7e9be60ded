"""The process that looks for another configuration, and what it tells the supervisor."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import follow
from appliance.children import Child, fork
from appliance.config import Config, load
from appliance.settings import Settings, save

FILE = """
allow = ["10.0.0.0/8", "2001:db8::/32"]
[node]
name = "a"
[[listener]]
port = 2055
[[exporter]]
address = "10.1.0.0/16"
sampling_rate = 1000
[health]
directory = "run"
[cluster]
name = "c"
ca = "ca.pem"
certificate = "node.pem"
key = "node.key"
[[cluster.node]]
name = "a"
address = "192.0.2.1"
[[cluster.vip]]
name = "v"
addresses = ["192.0.2.9", "2001:db8::9"]
[api]
state_dir = "state"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    path = tmp_path / "tandem.toml"
    path.write_text(FILE)
    return path


@pytest.fixture
def follower(path: Path) -> Iterator[Child]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)

    def body() -> None:
        ours.close()
        follow.run(path, path.parent / "state" / "settings.json", theirs)

    child = fork(body, ours)
    theirs.close()
    yield child
    ours.close()
    os.waitpid(child.pid, 0)


def heard(follower: Child) -> dict[str, Any]:
    while not (found := follower.messages()):
        pass
    (message,) = found
    return message


def test_a_configuration_comes_out_as_it_went_in(path: Path) -> None:
    found, where = follow.look(path, Path("elsewhere"))
    again = Config.model_validate(json.loads(json.dumps(found))["config"])
    assert again == load(path)
    assert again.sha256() == load(path).sha256()
    assert where == path.parent / "state" / "settings.json"
    path.write_text("a = b")
    found, where = follow.look(path, Path("as before"))
    assert "texts need quotes" in found["errors"][0]
    assert where == Path("as before")


def test_it_speaks_at_first_when_asked_and_when_the_settings_change(
    path: Path, follower: Child
) -> None:
    settings = path.parent / "state" / "settings.json"
    first = heard(follower)
    assert (first["version"], first["asked"], first["errors"]) == (0, False, [])
    save(settings, Settings(version=4, values={"store": {"retention_days": 7}}))
    changed = heard(follower)
    assert (changed["version"], changed["asked"]) == (4, False)
    assert changed["config"]["store"]["retention_days"] == 7
    follower.order({"look": True})
    assert heard(follower) == {**changed, "asked": True}
    settings.write_text("[]")
    assert "no settings document" in heard(follower)["errors"][0]
    settings.unlink()
    assert heard(follower) == first


def test_it_follows_the_settings_to_another_place(path: Path, follower: Child) -> None:
    heard(follower)
    other = path.parent / "other"
    other.mkdir()
    path.write_text(FILE.replace('"state"', '"other"'))
    follower.order({"look": True})
    assert heard(follower)["version"] == 0
    assert heard(follower)["version"] == 0
    save(other / "settings.json", Settings(version=5))
    assert heard(follower)["version"] == 5


def test_it_ends_with_its_supervisor(follower: Child) -> None:
    heard(follower)
    assert follower.control is not None
    follower.control.shutdown(socket.SHUT_RDWR)
    ended = os.waitid(os.P_PID, follower.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_status == 0
