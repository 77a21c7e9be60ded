"""Who may do what on real API processes: every route of the OpenAPI, with every role."""

from __future__ import annotations

import json
import re
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from api.app import create_app
from api.caller import ROLES
from appliance.config import Config
from tests.integration.cluster import TOKEN, Answer, Node, pair_of_nodes, start
from tests.integration.harness import wait_for

OPENAPI = create_app(Config(data_dir=Path())).openapi()
ROUTES = [
    (method.upper(), path, operation.get("x-required-role"))
    for path, operations in OPENAPI["paths"].items()
    for method, operation in operations.items()
]
GUARDED = [route for route in ROUTES if route[2]]
CHANGES = ("POST", "PUT", "PATCH", "DELETE")
_client = count()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    with pair_of_nodes(tmp_path_factory.mktemp("nodes")) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def one(pair: tuple[Node, Node]) -> Node:
    return pair[0]


@pytest.fixture(scope="module")
def tokens(one: Node) -> dict[str, str]:
    """A token of each role."""
    made = {}
    for role in ROLES:
        answer = one.ask("POST", "/v1/tokens", body={"name": f"a-{role}", "role": role})
        assert answer.status == 201, answer.text
        made[role] = answer.document["token"]
    return made


def ask(node: Node, method: str, path: str, token: str | None, **headers: str) -> Answer:
    """From an address that nobody has used; what is named in the path is not there."""
    n = next(_client)
    address = {"X-Forwarded-For": f"198.51.{n // 250}.{n % 250 + 1}"}
    return node.ask(method, re.sub(r"\{\w+\}", "nowhere", path), token, **(address | headers))


@pytest.mark.parametrize(("method", "path", "role"), GUARDED)
def test_every_route_asks_for_its_role(
    one: Node, tokens: dict[str, str], method: str, path: str, role: str
) -> None:
    for token in (None, "wrong", tokens["admin"][:-1]):
        answer = ask(one, method, path, token)
        assert answer.status == 401, (token, answer.text)
        assert answer.headers["www-authenticate"].startswith('Bearer realm="tandem"')
    for held, token in tokens.items():
        answer = ask(one, method, path, token)
        if ROLES.index(held) < ROLES.index(role):
            assert answer.status == 403, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert f"the role {role} is needed; a-{held} has {held}" in answer.document["detail"]
        else:
            assert answer.status not in (401, 403), answer.text
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_only_health_checks_are_open_and_no_viewer_changes_anything() -> None:
    open_ = {(method, path) for method, path, role in ROUTES if role is None}
    checks = ("/livez", "/readyz", "/active", "/standby")
    assert open_ == {(m, p) for m, p, _ in ROUTES if p in checks} != set()
    assert not [route for route in ROUTES if route[0] in CHANGES and route[2] == "viewer"]
    for path, operations in OPENAPI["paths"].items():
        for operation in operations.values():
            refusals = {"401", "403", "429"} & operation["responses"].keys()
            assert len(refusals) == (0 if path in checks else 3), path
            assert operation["security"] == ([] if path in checks else [{"bearer": []}])


@pytest.mark.parametrize("path", ["/nothing", "/v1/tokens/", "//v1/tokens", "/v1/%74okens", "/"])
def test_no_spelling_of_a_path_gets_round_it(one: Node, tokens: dict[str, str], path: str) -> None:
    for method in ("GET", "POST", "DELETE", "BREW"):
        assert ask(one, method, path, None).status == 401
        assert ask(one, method, path, tokens["viewer"]).status in (403, 404)


def test_methods_that_nobody_knows_are_for_admins(one: Node, tokens: dict[str, str]) -> None:
    assert ask(one, "BREW", "/v1/cluster", tokens["operator"]).status == 403
    assert ask(one, "BREW", "/v1/cluster", tokens["admin"]).status == 405


def test_the_tokens_of_the_file_and_of_the_machine_are_of_admins(one: Node) -> None:
    local = one.folder / "run" / "local.token"
    assert stat.S_IMODE(local.stat().st_mode) == 0o640
    for token in (TOKEN, local.read_text().strip()):
        assert one.ask("GET", "/v1/tokens", token).status == 200


def test_the_register_is_there_for_nodes_only(one: Node, tokens: dict[str, str]) -> None:
    assert ask(one, "GET", "/v1/register", tokens["admin"]).status == 404
    assert ask(one, "GET", "/v1/register", tokens["operator"]).status == 403


def test_no_other_site_may_read_or_change(one: Node, tokens: dict[str, str]) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "PUT"}
    for path in ("/livez", "/v1/cluster", "/v1/tokens"):
        for token in (None, tokens["admin"]):
            for method in ("OPTIONS", "GET"):
                answer = ask(one, method, path, token, **asked)
                assert not [name for name in answer.headers if "access-control" in name.lower()]


def through_peers(node: Node, by: Node, request: str) -> str:
    """The answer of ``node``'s listener for nodes."""
    context = ssl.create_default_context(cafile=str(node.authority.certificate))
    context.load_cert_chain(by.certificate, by.certificate.with_suffix(".key"))
    address = node.addresses[node.name]
    with (
        socket.create_connection((address, node.cluster_port), 5) as raw,
        context.wrap_socket(raw, server_hostname=address) as sock,
    ):
        method, path, *headers = request.split("\n")
        head = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers]
        sock.sendall("\r\n".join([*head, "", ""]).encode())
        answer = b""
        while part := sock.recv(65536):
            answer += part
    return answer.decode()


def says(**fields: str) -> str:
    return "Tandem-Caller: " + json.dumps({"name": "eve", "role": "admin"} | fields)


def test_only_nodes_can_say_for_whom_they_ask(
    pair: tuple[Node, Node], tokens: dict[str, str]
) -> None:
    one, two = pair
    drain = "DELETE\n/v1/nodes/n1/drain\n"
    name, value = says().split(": ", 1)
    assert ask(one, "DELETE", "/v1/tokens/x", None, **{name: value}).status == 401
    assert ask(one, "DELETE", "/v1/tokens/x", tokens["viewer"], **{name: value}).status == 403
    forwarded = "\nX-Forwarded-For: 198.51.100.77"
    assert " 401 " in through_peers(one, two, drain + says() + forwarded)
    assert " 403 " in through_peers(one, two, drain + says(role="viewer"))
    assert " 200 " in through_peers(one, two, drain + says(role="operator"))
    assert " 400 " in through_peers(one, two, drain + says(role="root"))
    assert " 400 " in through_peers(one, two, drain + "Tandem-Caller: eve")


def test_failures_are_limited_by_address_and_keep_nobody_else_out(
    one: Node, tokens: dict[str, str]
) -> None:
    def from_(address: str, token: str | None) -> Answer:
        return one.ask("GET", "/v1/node", token, **{"X-Forwarded-For": address})

    answers = [from_("203.0.113.9", "wrong") for _ in range(40)]
    assert [a.status for a in answers[:20]] == [401] * 20
    refused = answers[-1]
    assert (refused.status, int(refused.headers["retry-after"])) == (429, 1)
    assert "without a valid token" in refused.document["detail"]
    assert from_("203.0.113.9", tokens["viewer"]).status == 200
    assert from_("203.0.113.10", "wrong").status == 401
    assert one.ask("GET", "/livez", None, **{"X-Forwarded-For": "203.0.113.9"}).status == 200
    for n in range(40):
        last = from_(f"2001:db8:1:2::{n:x}", "wrong").status
    assert last == 429, "a /64 is one client"
    assert from_("2001:db8:1:3::1", "wrong").status == 401


def test_the_requests_of_a_token_are_limited(
    pair: tuple[Node, Node], tokens: dict[str, str]
) -> None:
    one, two = pair
    one.kill()
    one.write_config(api="requests_per_second = 2")
    start(one)
    begun = time.monotonic()
    answers = [one.ask("GET", "/v1/node", tokens["viewer"]) for _ in range(30)]
    taken = [a.status for a in answers].count(200)
    assert taken <= 4 + 2 * (time.monotonic() - begun) + 1
    assert [a.status for a in answers[:4]] == [200] * 4
    refused = next(a for a in answers if a.status == 429)
    assert "a-viewer makes more than 2 a second" in refused.document["detail"]
    assert refused.headers["retry-after"] == "1"
    assert one.ask("GET", "/v1/node", tokens["operator"]).status == 200
    assert [one.ask("GET", "/livez", None).status for _ in range(30)] == [200] * 30
    ok = "GET\n/v1/node\n"
    assert all(" 200 " in through_peers(one, two, ok) for _ in range(30))
    wait_for(lambda: one.ask("GET", "/v1/node", tokens["viewer"]).status == 200, 5, "a turn")


def test_openapi_shows_roles(one: Node, tokens: dict[str, str]) -> None:
    document: dict[str, Any] = one.ask("GET", "/openapi.json", tokens["operator"]).document
    assert document["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer"}
    }
    assert document["paths"]["/v1/tokens"]["get"]["x-required-role"] == "admin"
