"""The audit logs of two API processes: who changed what, once, and whether anybody was at them."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from appliance.cli.main import tandem
from tests.integration.cluster import TOKEN, Node, pair_of_nodes, start
from tests.integration.harness import wait_for

Pair = tuple[Node, Node]


@pytest.fixture
def pair(tmp_path: Any) -> Iterator[Pair]:
    with pair_of_nodes(tmp_path) as nodes:
        yield nodes


def audit(node: Node, limit: int = 1000) -> dict[str, Any]:
    return dict(node.get(f"/v1/audit?limit={limit}"))


def records(node: Node) -> list[dict[str, Any]]:
    return list(audit(node)["records"])


def state(node: Node, name: str) -> dict[str, Any]:
    (found,) = (one for one in audit(node)["nodes"] if one["node"] == name)
    return dict(found)


def operator(node: Node, role: str = "operator") -> str:
    made = node.request("POST", "/v1/tokens", body={"name": f"an-{role}", "role": role})[1]
    return str(made["token"])


def test_a_change_is_written_once_with_whoever_asked_for_it(pair: Pair) -> None:
    one, _ = pair
    token = operator(one)
    client = {"X-Forwarded-For": "198.51.100.7"}
    assert one.ask("GET", "/v1/node", token, **client).status == 200
    drain = one.ask("PUT", "/v1/nodes/n2/drain?vip=v1", token, **client)
    assert drain.status == 200
    local = one.ask("DELETE", "/v1/nodes/n1/drain", token, **client)
    refused = one.ask("POST", "/v1/tokens", token, **client)
    assert refused.status == 403
    for node in pair:
        found = records(node)
        assert [(r["node"], r["method"], r["path"], r["status"], r["caller"]) for r in found] == [
            ("n1", "POST", "/v1/tokens", 403, "an-operator"),
            ("n1", "DELETE", "/v1/nodes/n1/drain", 200, "an-operator"),
            ("n2", "PUT", "/v1/nodes/n2/drain?vip=v1", 200, "an-operator"),
            ("n1", "POST", "/v1/tokens", 201, "token file"),
        ]
        assert found[3]["more"]["name"] == "an-operator"
        assert (found[3]["client"], found[3]["role"]) == ("127.0.0.1", "admin")
        assert {r["client"] for r in found[:3]} == {"198.51.100.7"}
        assert [r["request"] for r in found[:3]] == [
            a.headers["x-request-id"] for a in (refused, local, drain)
        ]
        assert [n["whole"] for n in audit(node)["nodes"]] == [True, True]
    assert len(audit(one, 2)["records"]) == 2
    file = one.folder / "state" / "audit.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token not in file.read_text()


def test_what_another_node_did_not_answer_is_written_where_it_was_asked_for(pair: Pair) -> None:
    one, two = pair
    two.kill()
    assert one.request("PUT", "/v1/nodes/n2/drain")[0] == 502
    (record,) = records(one)
    assert (record["status"], record["node"]) == (502, "n1")
    assert state(one, "n2")["whole"] is None
    assert "the node does not answer" in state(one, "n2")["problem"]


def test_refusals_are_written_but_a_flood_of_them_is_not(pair: Pair) -> None:
    one, _ = pair
    secret = "tandem_put-into-the-query-by-mistake"
    for n in range(300):
        headers = {"X-Forwarded-For": f"198.51.{n}.1"} if n < 256 else {}
        one.ask("GET", f"/v1/node?token={secret}", "wrong", **headers)
    one.request("DELETE", "/v1/nodes/n1/drain")
    found = records(one)
    refused = [r for r in found if r["caller"] is None]
    assert 50 <= len(refused) <= 60
    assert {(r["path"], r["role"]) for r in refused} == {("/v1/node", None)}
    assert [r["status"] for r in refused[-50:]] == [401] * 50
    assert len(refused) + sum(r["unwritten"] for r in found) == 300
    assert state(one, "n1")["whole"] is True
    files = (one.folder / "state").rglob("*")
    assert not [f for f in files if f.is_file() and secret in f.read_text()]


def test_whoever_was_at_a_log_is_found_out(pair: Pair) -> None:
    one, two = pair
    for _ in range(3):
        assert two.request("DELETE", "/v1/nodes/n2/drain")[0] == 200
    file = two.folder / "state" / "audit.jsonl"
    whole = file.read_bytes()
    assert state(one, "n2")["whole"] is True
    file.write_bytes(whole.replace(b"token file", b"somebody!!", 1))
    assert state(one, "n2") == {
        "node": "n2", "whole": False, "problem": "line 2 does not follow the one before",
    }  # fmt: skip
    file.write_bytes(whole[: whole.rstrip().rfind(b"\n") + 1])
    assert "the end is not line 3" in state(one, "n2")["problem"]
    assert state(one, "n1")["whole"] is True
    shown = CliRunner().invoke(
        tandem, ["audit", "--url", f"http://127.0.0.1:{one.port}"], env={"TANDEM_TOKEN": TOKEN}
    )
    assert shown.exit_code == 1
    assert "the audit log of n2 is not whole: the end is not line 3" in shown.stderr


def test_what_was_cut_while_a_node_was_down_is_known_to_the_others(pair: Pair) -> None:
    one, two = pair
    for _ in range(3):
        assert two.request("DELETE", "/v1/nodes/n2/drain")[0] == 200
    time.sleep(3)  # one asks each second
    two.kill()
    file = two.folder / "state" / "audit.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(True)[:2]))
    start(two)
    assert state(two, "n2")["whole"] is True, "it cannot know"
    wait_for(lambda: state(one, "n2")["whole"] is False, 5, "found out")
    assert state(one, "n2")["problem"] == "it had line 3, then only 2"


def test_the_command_line_shows_it(pair: Pair) -> None:
    one, two = pair
    token = operator(one, "admin")
    two.request("PUT", "/v1/nodes/n1/drain?vip=v2", token)
    url = ["--url", f"http://127.0.0.1:{two.port}"]
    env = {"TANDEM_TOKEN": token}
    shown = CliRunner().invoke(tandem, ["audit", *url], env=env)
    assert shown.exit_code == 0, shown.output
    first = shown.stdout.splitlines()[1].split()
    assert first[2:] == [
        "n1", "an-admin", "admin", "127.0.0.1", "PUT", "/v1/nodes/n1/drain?vip=v2", "200",
    ]  # fmt: skip
    found = json.loads(CliRunner().invoke(tandem, ["audit", "--json", *url], env=env).stdout)
    assert [r["more"].get("role") for r in found["records"]] == [None, "admin"]
