"""Whatever a client sends, the API answers as its own description says: Schemathesis tries."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks
from schemathesis.checks import CheckFunction

from api.app import create_app
from appliance.config import default
from tests.integration.cluster import TOKEN, Authority, Node, start
from tests.integration.harness import free_port

ADDRESSES = {"n1": "127.0.0.2", "n2": "127.0.0.3"}
HEALTH = {"/livez", "/readyz", "/active", "/standby"}
"""503 is one of their answers."""
EXAMPLES = settings(
    max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("schema")
    authority = Authority(folder / "ca")
    port = free_port(socket.SOCK_STREAM)
    nodes = [Node(folder / name, name, ADDRESSES, port, authority) for name in ADDRESSES]
    try:
        start(*nodes)
        yield nodes[0]
    finally:
        for one in nodes:
            one.end()


SCHEMA = schemathesis.openapi.from_dict(create_app(default()).openapi())
OPERATIONS = {
    f"{operation.method.upper()} {operation.path}": operation
    for operation in (found.ok() for found in SCHEMA.get_all_operations())
}


CASES = [
    (name, mode)
    for name, one in OPERATIONS.items()
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or one.body or one.query or one.path_parameters
]


@pytest.mark.parametrize(("name", "mode"), CASES, ids=lambda part: getattr(part, "value", part))
def test_with_a_token_every_answer_is_as_described(
    node: Node, name: str, mode: GenerationMode
) -> None:
    operation = OPERATIONS[name]
    without: list[CheckFunction] = [
        # what a filter or a time may be, a schema cannot say
        checks.positive_data_acceptance,
        # it cannot take away a token that is given to it as a header; see test_api_access
        checks.ignored_auth,
    ]
    if operation.path in HEALTH:
        without.append(checks.not_a_server_error)
    if operation.path.startswith("/v1/config"):
        # an If-Match that is not that of now comes before a body that is not right
        without.append(checks.negative_data_rejection)

    @EXAMPLES
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(
            base_url=f"http://127.0.0.1:{node.port}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            excluded_checks=without,
            timeout=20,
        )

    ask()
