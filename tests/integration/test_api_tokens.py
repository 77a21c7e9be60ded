"""Tokens that one node makes and all know: through restarts, and while a node is away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from api.register.store import Register
from api.tokens.record import TokenRecord
from appliance.cli.main import tandem
from tests.integration.cluster import TOKEN, Answer, Node, acquainted, pair_of_nodes, start
from tests.integration.harness import wait_for

Pair = tuple[Node, Node]
_client = count()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair_of_nodes(tmp_path_factory.mktemp("nodes")) as pair:
        yield pair


@pytest.fixture
def pair(nodes: Pair) -> Pair:
    """Both run, and there are no tokens."""
    start(*nodes)
    acquainted(*nodes)
    for one in nodes[0].get("/v1/tokens")["tokens"]:
        assert nodes[0].request("DELETE", f"/v1/tokens/{one['id']}")[0] == 200
    return nodes


def make(node: Node, name: str, role: str = "viewer", **fields: Any) -> dict[str, Any]:
    status, made = node.request("POST", "/v1/tokens", body={"name": name, "role": role} | fields)
    assert status == 201, made
    return dict(made)


def ask(node: Node, token: str) -> Answer:
    """From an address that has not failed before: refusals are to say why, however many."""
    n = next(_client)
    return node.ask("GET", "/v1/node", token, **{"X-Forwarded-For": f"10.{n >> 8}.{n & 255}.1"})


def status(node: Node, token: str) -> int:
    return ask(node, token).status


def test_a_token_of_one_node_is_good_on_the_other_and_so_is_its_end(pair: Pair) -> None:
    one, two = pair
    made = make(one, "ci", "operator", days=1)
    assert (made["created_by"], made["expired"]) == ("token file", False)
    assert made["expires_ns"] - made["created_ns"] == 86400 * 10**9
    wait_for(lambda: status(two, made["token"]) == 200, 5, "it is known elsewhere")
    assert two.request("PUT", "/v1/nodes/n1/drain?vip=v9", made["token"])[0] == 404
    assert [t["id"] for t in two.get("/v1/tokens")["tokens"]] == [made["id"]]
    assert two.request("DELETE", f"/v1/tokens/{made['id']}")[0] == 200
    wait_for(lambda: status(one, made["token"]) == 401, 5, "so is its end")
    assert status(two, made["token"]) == 401
    assert one.get("/v1/tokens") == {"tokens": []}


def test_tokens_and_their_end_outlive_the_process(pair: Pair) -> None:
    one, two = pair
    kept, gone = make(one, "kept"), make(two, "gone")
    assert one.request("DELETE", "/v1/tokens/gone")[0] == 200, "by its name"
    one.kill()
    two.kill()
    start(one, two)
    for node in pair:
        assert (status(node, kept["token"]), status(node, gone["token"])) == (200, 401)


def test_a_node_that_was_away_learns_what_it_missed(pair: Pair) -> None:
    one, two = pair
    gone = make(one, "gone")
    wait_for(lambda: status(two, gone["token"]) == 200, 5, "known before")
    two.kill()
    assert one.request("DELETE", f"/v1/tokens/{gone['id']}")[0] == 200
    made = make(one, "made")
    start(two)
    wait_for(lambda: status(two, gone["token"]) == 401, 5, "the revoked one refused")
    wait_for(lambda: status(two, made["token"]) == 200, 5, "the new one taken")


def test_an_expired_token_is_refused_and_told_so(pair: Pair) -> None:
    one, two = pair
    one.kill()
    token = "tandem_of-last-year"
    record = TokenRecord(
        name="old", role="admin", sha256=sha256(token.encode()).hexdigest(), created_by="x",
        created_ns=1, expires_ns=time.time_ns() - 10**9,
    )  # fmt: skip
    register = Register(one.folder / "state" / "register", "n1")
    asyncio.run(register.put("token", "2026", record.model_dump()))
    register.close()
    start(one)
    for node in (one, two):
        wait_for(lambda: "expired" in ask(node, token).text, 5, "said")  # noqa: B023
        answer = ask(node, token)
        assert answer.status == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert "the token old has expired: it was good until 20" in answer.document["detail"]
    assert one.get("/v1/tokens")["tokens"][0]["expired"] is True


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"name": "taken", "role": "viewer"}, 409),
        ({"name": "x", "role": "root"}, 422),
        ({"name": "token file", "role": "viewer"}, 422),
        ({"name": "x\n", "role": "viewer"}, 422),
        ({"name": "", "role": "viewer"}, 422),
        ({"name": "x" * 64, "role": "viewer"}, 422),
        ({"name": "x"}, 422),
        ({"name": "x", "role": "viewer", "days": 0}, 422),
        ({"name": "x", "role": "viewer", "days": 4000}, 422),
        ({"name": "x", "role": "viewer", "day": 1}, 422),
        ([], 422),
    ],
)
def test_what_cannot_be_is_refused(pair: Pair, body: Any, expected: int) -> None:
    one, _ = pair
    make(one, "taken")
    assert one.request("POST", "/v1/tokens", body=body)[0] == expected
    assert [t["name"] for t in one.get("/v1/tokens")["tokens"]] == ["taken"]
    assert one.request("DELETE", "/v1/tokens/nobody")[0] == 404


def test_a_token_is_shown_once_and_is_in_no_file_and_no_log(pair: Pair) -> None:
    one, two = pair
    token = make(one, "secret", "admin")["token"]
    assert token.startswith("tandem_")
    assert len(token) == 50
    answers = []
    for node in pair:
        wait_for(lambda: status(node, token) == 200, 5, "known")  # noqa: B023
        for path in ("/v1/tokens", "/v1/audit", "/v1/node", "/v1/cluster", "/metrics"):
            answers.append(node.ask("GET", path, token).text)
        answers.append(node.ask("PUT", f"/v1/nodes/n9/drain?vip={'x' * 70}", token).text)
        # mistakes of clients: they get it back, and the audit log does not
        node.ask("PUT", f"/v1/nodes/{token}/drain?vip={token}", None)
        node.ask("PUT", f"/v1/nodes/{token}/drain?vip={token}")
        answers.append(node.ask("GET", f"/v1/node?token={token}", "wrong").text)
    assert one.request("DELETE", "/v1/tokens/secret", token)[0] == 200
    answers.append(one.ask("GET", "/v1/node", token).text)
    one.kill()
    two.kill()
    digest = sha256(token.encode()).hexdigest()
    assert not [text for text in answers if token in text or digest in text]
    files = [f for node in pair for f in node.folder.rglob("*") if f.is_file()]
    assert any(f.name == "audit.jsonl" for f in files)
    assert any(f.name == "api.log" for f in files)
    assert not [f for f in files if token.encode() in f.read_bytes()]


def command(node: Node, *arguments: str) -> Any:
    url = f"http://127.0.0.1:{node.port}"
    return CliRunner().invoke(tandem, [*arguments, "--url", url], env={"TANDEM_TOKEN": TOKEN})


def test_the_command_line_makes_lists_and_revokes(pair: Pair, tmp_path: Path) -> None:
    one, two = pair
    made = command(one, "token", "create", "--name", "ci", "--role", "operator", "--days", "90")
    assert made.exit_code == 0, made.output
    token = made.stdout.strip()
    assert status(one, token) == 200
    assert "operator ci, until 20" in made.stderr
    assert token not in made.stderr
    listed = command(two, "token", "list")
    assert listed.stdout.split("\n")[0].split() == ["id", "name", "role", "created", "by", "good"]
    assert "operator" in listed.stdout
    found = json.loads(command(two, "token", "list", "--json").stdout)
    assert [t["name"] for t in found["tokens"]] == ["ci"]
    again = command(one, "token", "create", "--name", "ci")
    assert (again.exit_code, "there is a token 'ci'" in again.output) == (1, True)
    second = json.loads(command(one, "token", "create", "--name", "b", "--json").stdout)
    assert (second["role"], second["expires_ns"]) == ("viewer", None)
    gone = command(two, "token", "revoke", "ci")
    assert (gone.exit_code, "operator ci is revoked" in gone.output) == (0, True)
    wait_for(lambda: status(one, token) == 401, 5, "revoked")
    two.kill()
    wait_for(lambda: not one.member("n2")["reachable"], 10, "the dead peer noticed")
    command(one, "token", "create", "--name", "c")
    gone = command(one, "token", "revoke", "c")
    assert "n2 does not answer" in gone.stderr
    (tmp_path / "token").write_text(token)
    url = f"http://127.0.0.1:{one.port}"
    by_file = ["token", "list", "--url", url, "--token-file", str(tmp_path / "token")]
    refused = CliRunner().invoke(tandem, by_file)
    assert (refused.exit_code, "the token is not valid here" in refused.output) == (2, True)
    (tmp_path / "token").write_text(second["token"])
    refused = CliRunner().invoke(tandem, by_file)
    assert (refused.exit_code, "the role admin is needed" in refused.output) == (1, True)
