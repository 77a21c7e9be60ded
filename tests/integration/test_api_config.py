"""Settings through the API, on two nodes with real collectors."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from appliance.cli.main import tandem as commands
from tests.integration.cluster import TOKEN, Authority, Node, start
from tests.integration.harness import free_port, wait_for

ADDRESSES = {"n1": "127.0.0.2", "n2": "127.0.0.3"}
RETENTION = {"store": {"retention_days": 60}}


@dataclass
class Whole(Node):
    """A node whose collector is real, too."""

    collector_process: subprocess.Popen[bytes] | None = None

    def write_config(self, **changes: Any) -> None:
        super().write_config(**changes)
        file = self.folder / "tandem.toml"
        text = file.read_text().replace('[health]\ndirectory = "run"', "")
        text = text.replace("port = 2055", f'address = "{ADDRESSES[self.name]}"\nport = 2055')
        days = changes.get("days", 30)
        file.write_text(f"{text}[store]\nretention_days = {days}\n[receive]\nshards = 2\n")

    def begin_collector(self) -> None:
        with (self.folder / "collector.log").open("ab") as log:
            self.collector_process = subprocess.Popen(
                [sys.executable, "-m", "appliance.cli", "collect", "--config",
                 str(self.folder / "tandem.toml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def in_force(self) -> tuple[int, Any]:
        """Version and retention that hold here, by the collector and by the API."""
        found = self.get("/v1/config")
        return (
            found["nodes"][self.name]["version"],
            found["keys"]["store.retention_days"]["value"],
        )

    def change(self, method: str, body: Any, etag: str | None = None, query: str = "",
               path: str = "/v1/config") -> tuple[int, Any]:  # fmt: skip
        headers = {"If-Match": f'"{self.get("/v1/config")["version"]}"' if etag is None else etag}
        return self.request(method, path + query, body=body, **headers)

    def ended(self, operation: Any) -> Any:
        assert "id" in operation, operation
        path = f"/v1/operations/{operation['id']}"
        wait_for(lambda: self.get(path)["state"] in ("succeeded", "failed"), 60,
                 lambda: str(self.get(path)))  # fmt: skip
        return self.get(path)

    def end(self) -> None:
        if self.collector_process is not None:
            self.collector_process.send_signal(signal.SIGCONT)
            self.collector_process.terminate()
            self.collector_process.wait(20)
        super().end()


Pair = tuple[Whole, Whole]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("config")
    authority = Authority(folder / "ca")
    port = free_port(socket.SOCK_STREAM)
    one, two = (Whole(folder / name, name, ADDRESSES, port, authority) for name in ADDRESSES)
    try:
        for node in (one, two):
            node.begin_collector()
        start(one, two)
        yield one, two
    finally:
        one.end()
        two.end()


@pytest.fixture
def pair(nodes: Pair) -> Pair:
    """All is well, and nothing is set."""
    start(*nodes)
    for node in nodes:
        wait_for(lambda: all(o["ended_ns"] for o in node.get("/v1/operations")), 60,  # noqa: B023
                 "nothing runs")  # fmt: skip
    for node in nodes:
        node.write_config()
    for node in nodes:
        wait_for(lambda: all(n["ready"] for n in node.get("/v1/cluster")["nodes"]), 30,  # noqa: B023
                 "all well")  # fmt: skip
    if nodes[0].get("/v1/config")["values"]:
        assert nodes[0].ended(nodes[0].change("PUT", {})[1])["state"] == "succeeded"
    return nodes


def test_a_change_is_applied_on_all_nodes_while_they_collect(pair: Pair) -> None:
    one, two = pair
    version = one.get("/v1/config")["version"]
    digests = {node.name: node.get("/v1/node")["config_sha256"] for node in pair}
    status, preview = one.change("PATCH", RETENTION, query="?dry_run=true")
    assert status == 200
    assert preview["changes"] == [
        {"key": "store.retention_days", "before": 30, "after": 60, "effect": "live"}
    ]
    assert two.in_force() == (version, 30)
    status, operation = one.change("PATCH", RETENTION)
    assert (status, operation["kind"]) == (202, "config")
    found = one.ended(operation)
    assert (found["state"], found["problem"]) == ("succeeded", "")
    assert [e["text"] for e in found["events"]] == [
        f"n1 collects with version {version + 1}",
        f"n2 collects with version {version + 1}",
        f"version {version + 1} holds",
        "succeeded",
    ]
    for node in pair:
        assert node.in_force() == (version + 1, 60)
        assert node.get("/v1/config")["keys"]["store.retention_days"]["source"] == "settings"
        assert node.get("/v1/config")["keys"]["receive.shards"]["source"] == "file"
        assert node.get("/v1/node")["config_sha256"] != digests[node.name]
    newest = two.get("/v1/config/history")[0]
    assert (newest["version"], newest["values"], newest["operation"]) == (
        version + 1, RETENTION, operation["id"],
    )  # fmt: skip
    assert two.get(f"/v1/config/history/{version + 1}") == newest


def test_changes_that_cannot_be_are_refused_with_the_key(pair: Pair) -> None:
    one, two = pair
    before = one.in_force()
    for values, key in [
        ({"store": {"retention_days": 0}}, "store.retention_days"),
        ({"store": {"retention_dais": 1}}, "store.retention_dais"),
        ({"node": {"name": "n9"}}, "node.name"),
        ({"allow": ["nonsense"]}, "allow[1]"),
        ({"api": {"token_file": "x"}}, "api.token_file"),
        ([], "settings"),
    ]:
        for query in ("", "?dry_run=true"):
            status, problem = one.change("PATCH", values, query=query)
            assert status == 422, problem
            if isinstance(values, dict):
                assert [e["field"] for e in problem["errors"]] == [key]
    assert one.request("PATCH", "/v1/config", body=RETENTION)[0] == 428
    status, problem = one.change("PATCH", RETENTION, etag='"99"')
    assert (status, "have changed" in problem["title"]) == (412, True)
    assert one.request("PUT", "/v1/config/candidate", body={})[0] == 404
    assert two.in_force() == before


def test_of_two_changes_to_the_same_version_one_holds(pair: Pair) -> None:
    one, two = pair
    etag = f'"{one.get("/v1/config")["version"]}"'
    first = one.change("PATCH", RETENTION, etag)
    status, problem = two.change("PATCH", {"store": {"retention_days": 70}}, etag)
    assert status in (409, 412), problem
    assert one.ended(first[1])["state"] == "succeeded"
    assert two.change("PATCH", {"store": {"retention_days": 70}}, etag)[0] == 412
    assert two.in_force()[1] == 60


def test_it_is_taken_back_where_a_node_cannot_use_it(pair: Pair) -> None:
    one = pair[0]
    before = one.in_force()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.9", 0))
        listeners = [{"address": "127.0.0.9", "port": taken.getsockname()[1]}]
        found = one.ended(one.change("PATCH", {"listener": listeners})[1])
    assert found["state"] == "failed"
    assert "n1 cannot use them: cannot listen on" in found["problem"]
    for node in pair:
        wait_for(lambda: node.in_force() == before, 10, "as before")  # noqa: B023
    assert one.get("/v1/config")["version"] == before[0]


def test_it_is_taken_back_on_all_nodes_where_one_does_not_collect_with_it(pair: Pair) -> None:
    one, two = pair
    before = one.in_force()
    operation = one.change("PATCH", RETENTION)[1]
    wait_for(lambda: bool(one.get(f"/v1/operations/{operation['id']}")["events"]), 20, "n1 first")
    assert one.in_force() == (before[0] + 1, 60)
    assert two.collector_process is not None
    two.collector_process.send_signal(signal.SIGSTOP)
    try:
        found = one.ended(operation)
        assert (found["state"], "n2 does not collect with them" in found["problem"]) == (
            "failed", True,
        )  # fmt: skip
        wait_for(lambda: one.in_force() == before, 10, "as before")
    finally:
        two.collector_process.send_signal(signal.SIGCONT)
    wait_for(lambda: two.in_force() == before, 10, "as before")


def test_what_was_before_comes_back_as_a_new_version(pair: Pair) -> None:
    one, two = pair
    assert one.ended(one.change("PATCH", RETENTION)[1])["state"] == "succeeded"
    version = one.get("/v1/config")["version"]
    assert one.ended(one.change("PATCH", {"store": None})[1])["state"] == "succeeded"
    assert two.in_force() == (version + 1, 30)
    back = two.change("POST", {"version": version}, path="/v1/config/rollback")[1]
    assert two.ended(back)["state"] == "succeeded"
    assert one.in_force() == (version + 2, 60)
    assert one.change("POST", {"version": 999}, path="/v1/config/rollback")[0] == 404


def test_what_ansible_changes_beneath_is_drift_until_somebody_decides(pair: Pair) -> None:
    one, two = pair
    assert one.ended(one.change("PATCH", RETENTION)[1])["state"] == "succeeded"
    assert one.get("/v1/config")["drift"] == []
    for node in pair:
        node.write_config(days=45)
    assert one.get("/v1/config")["drift"] == [
        {"key": "store.retention_days", "setting": 60, "was": 30, "now": 45}
    ]
    decide = {"action": "adopt", "keys": ["store.retention_days"]}
    adopted = one.change("POST", decide, path="/v1/config/drift")[1]
    assert one.ended(adopted)["state"] == "succeeded"
    assert (one.get("/v1/config")["drift"], two.in_force()[1]) == ([], 60)
    decide["action"] = "reset"
    assert one.ended(one.change("POST", decide, path="/v1/config/drift")[1])["state"] == "succeeded"
    assert two.in_force()[1] == 45


def test_a_node_that_was_away_takes_what_holds(pair: Pair) -> None:
    one, two = pair
    two.kill()
    wait_for(lambda: not one.member("n2")["reachable"], 10, "gone")
    operation = one.ended(one.change("PATCH", RETENTION)[1])
    assert operation["state"] == "succeeded"
    assert "n2 does not answer" in operation["events"][0]["text"]
    start(two)
    wait_for(lambda: two.in_force() == one.in_force(), 15, "the same")


def tandem(node: Whole, *arguments: str, env_editor: str = "", **options: Any) -> Any:
    url = f"http://127.0.0.1:{node.port}"
    environment = {"TANDEM_TOKEN": TOKEN, "TANDEM_URL": url, "EDITOR": env_editor}
    return CliRunner().invoke(commands, ["config", *arguments], env=environment, **options)


def test_the_command_line_sets_shows_and_goes_back(pair: Pair, tmp_path: Path) -> None:
    one, two = pair
    dry = tandem(one, "set", "store.retention_days=60", "--dry-run")
    assert (dry.exit_code, dry.output) == (0, "store.retention_days: 30.0 → 60.0\n")
    done = tandem(one, "set", "store.retention_days=60")
    assert done.exit_code == 0, done.output
    assert "n2 collects with version" in done.output
    assert tandem(two, "get", "store.retention_days").output == "60.0\n"
    shown = [line.split() for line in tandem(two, "get").output.splitlines()]
    assert ["store.retention_days", "settings", "60.0"] in shown
    wrong = tandem(one, "set", "node.name=n9")
    assert (wrong.exit_code, "node.name" in wrong.output) == (1, True)
    assert tandem(one, "set", "store.retention_days").exit_code == 2
    version = one.get("/v1/config")["version"]
    assert "nothing would change" in tandem(one, "diff", str(version)).output
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho \'{"store": {"retention_days": 70}}\' > "$1"\n')
    editor.chmod(0o755)
    edited = tandem(one, "edit", input="y\n", env_editor=str(editor))
    assert (edited.exit_code, "60.0 → 70.0" in edited.output) == (0, True), edited.output
    back = tandem(two, "rollback", str(version))
    assert back.exit_code == 0, back.output
    shown = tandem(one, "history")
    assert f"back to version {version}" in shown.output
    assert "store.retention_days: 70.0 → 60.0" in shown.output
    for node in pair:
        node.write_config(days=45)
    assert "the file said 30.0 then, and says 45.0 now" in tandem(one, "drift").output
    assert tandem(one, "drift", "--reset", "store.retention_days").exit_code == 0
    assert tandem(one, "drift").output == "no drift\n"


@pytest.mark.parametrize("step", range(3))
def test_an_api_killed_at_any_step_leaves_all_nodes_with_the_same(pair: Pair, step: int) -> None:
    one = pair[0]
    before = one.in_force()
    operation = one.change("PATCH", RETENTION)[1]
    path = f"/v1/operations/{operation['id']}"
    wait_for(lambda: len(one.get(path)["events"]) >= step, 20, "that step", 0.005)
    time.sleep(0.3)
    one.kill()
    start(one)
    # the deadline of the operation is long: what holds is known before
    wait_for(
        lambda: one.get("/v1/config")["version"] in (before[0], before[0] + 1), 10, "a version"
    )
    held = one.get("/v1/config")["version"]
    path = f"/v1/operations/{operation['id']}"
    wait_for(lambda: one.get(path)["state"] in ("succeeded", "failed"), 150, "its end", 0.5)
    state = one.get(path)["state"]
    assert (state == "succeeded") == (held == before[0] + 1)
    for node in pair:
        wait_for(lambda: node.in_force() == (held, 60 if held > before[0] else before[1]), 10,  # noqa: B023
                 lambda: str(node.in_force()))  # fmt: skip  # noqa: B023
