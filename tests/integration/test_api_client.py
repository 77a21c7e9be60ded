"""A client that a program has made from the API's description alone can use the API."""

from __future__ import annotations

import importlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from api.app import create_app
from appliance.config import default
from tests.integration.cluster import TOKEN, Authority, Node, start
from tests.integration.harness import free_port

GENERATOR = Path(sys.executable).with_name("openapi-python-client")


def test_each_operation_has_a_name_of_its_own() -> None:
    document = create_app(default()).openapi()
    names = [one["operationId"] for ops in document["paths"].values() for one in ops.values()]
    assert len(names) == len(set(names))
    assert {"begin_switchover", "drain", "cluster", "livez"} <= set(names)


def test_a_generated_client_asks_moves_and_is_told_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "ca")
    node = Node(
        tmp_path / "n1", "n1", {"n1": "127.0.0.2"}, free_port(socket.SOCK_STREAM), authority
    )
    try:
        start(node)
        use(generated(node, tmp_path, monkeypatch), node)
    finally:
        node.end()


def generated(node: Node, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the package."""
    (folder / "openapi.json").write_text(json.dumps(node.get("/openapi.json")))
    (folder / "config.yml").write_text("post_hooks: []\n")
    subprocess.run(
        [GENERATOR, "generate", "--path", "openapi.json", "--output-path", "tandem_client",
         "--meta", "none", "--config", "config.yml", "--fail-on-warning"],
        cwd=folder, check=True, timeout=120,
    )  # fmt: skip
    monkeypatch.syspath_prepend(str(folder))
    return "tandem_client"


def use(package: str, node: Node) -> None:
    def of(name: str) -> Any:
        return importlib.import_module(f"{package}.{name}")

    client = of("client").AuthenticatedClient(f"http://127.0.0.1:{node.port}", TOKEN)
    found = of("api.cluster.cluster").sync(client=client)
    assert [one.name for one in found.nodes] == ["n1"]
    paused = of("api.operations.pause").sync(
        client=client, body=of("models.pause").Pause(reason="a client's")
    )
    assert (paused.paused, paused.reason) == (True, "a client's")
    wanted = of("models.switchover_request").SwitchoverRequest(vip="v1")
    refused = of("api.operations.begin_switchover").sync(client=client, body=wanted)
    assert (refused.status, refused.title) == (409, "The cluster is paused")
    assert of("api.operations.end_pause").sync(client=client).paused is False
    assert of("api.operations.operations").sync(client=client) == []
