"""The order of steps from one configuration to the next, with sockets that nobody else reads."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import transition
from appliance.config import Config
from appliance.health.pulse import Pulse
from appliance.receive.listeners import Listeners
from appliance.transition import Transition
from tests.integration.harness import free_port


class Workers:
    """In the place of the pool: says what it is asked, and replaces a worker when told to."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.settled = True
        self.generation = 0
        self._have = 0

    def replace_one(self) -> bool:
        if self._have == self.generation:
            return False
        self._have, self.settled = self.generation, False
        return True


class Node:
    """A transition of a collector with one listener, and what it has had replaced."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.config = self.of(listener=[self.at(self.port)])
        self.workers = Workers(self.config)
        self.listeners = Listeners()
        self.listeners.add(self.config)
        self.pulse = Pulse.create(directory / "pulse", 2)
        self.replaced = 0
        self.transition = Transition(
            self.config,
            self.workers,
            self.listeners,
            self.pulse,
            self.replace,  # type: ignore[arg-type]
        )

    def at(self, port: int, address: str = "127.0.0.1") -> dict[str, Any]:
        return {"address": address, "port": port}

    def of(self, **tables: Any) -> Config:
        receive = {"shards": 2, "max_workers": 1, "receive_buffer": 1 << 20}
        base = {"data_dir": str(self.directory), "receive": receive}
        return Config.model_validate({**base, "listener": [self.at(self.port)], **tables})

    def replace(self) -> None:
        self.replaced += 1

    def want(self, version: int, asked: bool = False, **tables: Any) -> None:
        config = self.of(**tables).model_dump(mode="json")
        message = {"errors": [], "config": config, "version": version, "asked": asked}
        self.transition.hear(message)

    def step(self, settle: bool = True) -> None:
        self.transition.step()
        if settle:
            self.workers.settled = True

    def steps(self) -> None:
        for _ in range(10):
            self.step()

    @property
    def version(self) -> int:
        version: int = self.transition.report()["settings_version"]
        return version

    @property
    def problem(self) -> str:
        problem: str = self.transition.report()["settings_problem"]
        return problem

    @property
    def shown(self) -> set[str]:
        return set(self.pulse.shown().values())

    def name(self, port: int) -> str:
        return f"udp://127.0.0.1:{port}"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    for name in list(node.listeners.endpoints):
        node.listeners.close(name)


def test_what_workers_do_not_use_replaces_none(node: Node) -> None:
    node.want(1)
    node.steps()
    assert (node.version, node.workers.generation, node.replaced) == (1, 0, 0)
    node.want(2, store={"retention_days": 3})
    node.steps()
    assert (node.version, node.workers.generation, node.replaced) == (2, 0, 1)
    node.want(3, store={"retention_days": 3}, metrics={"exporters": 1})
    node.steps()
    assert (node.version, node.workers.generation, node.replaced) == (3, 0, 1)
    assert node.workers.config.metrics.exporters == 1
    assert not node.transition.busy
    node.want(3, asked=True, store={"retention_days": 3}, metrics={"exporters": 1})
    node.steps()
    assert (node.version, node.workers.generation, node.replaced) == (3, 1, 1)


def test_a_configuration_is_in_force_when_all_workers_have_it(node: Node) -> None:
    before = node.transition.report()["config_sha256"]
    node.want(1, allow=["10.0.0.0/8"])
    node.step()
    node.step(settle=False)
    for _ in range(5):
        node.step(settle=False)
        assert node.version == 0
        assert node.transition.report()["config_sha256"] == before
    node.workers.settled = True
    node.steps()
    assert node.version == 1
    assert node.transition.report()["config_sha256"] == node.workers.config.sha256()


def test_canaries_are_asked_for_only_through_what_all_workers_read(node: Node) -> None:
    other = free_port()
    assert node.shown == {node.name(node.port)}
    node.want(1, listener=[node.at(other)])
    node.step()
    assert node.listeners.groups.keys() == {node.name(node.port), node.name(other)}
    node.step(settle=False)
    node.step(settle=False)
    assert node.shown == {node.name(node.port)}
    assert not node.listeners.leaving
    node.workers.settled = True
    node.step()
    assert node.shown == {node.name(other)}
    assert node.listeners.leaving == {node.name(node.port)}
    node.steps()
    assert node.listeners.groups.keys() == {node.name(other)}
    assert (node.version, node.workers.generation) == (1, 2)


def test_a_listener_is_not_closed_before_it_is_empty_nor_opened_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, first = free_port(), node.name(node.port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", node.port))
    node.want(1, listener=[node.at(other)])
    node.steps()
    assert node.listeners.leaving == {first}
    assert (node.version, node.problem) == (0, "")
    monkeypatch.setattr(transition, "SLOW_SECONDS", 0.0)
    assert node.problem.startswith(f"{first} cannot be closed yet")
    # others are not held up by it, but it has to be gone before it comes again
    node.want(2, listener=[node.at(other)], store={"retention_days": 3})
    node.steps()
    assert node.replaced == 1
    node.want(3, listener=[node.at(node.port)])
    node.steps()
    assert node.workers.config.listener[0].port == other
    for sock in node.listeners.groups[first]:
        try:
            assert sock.recv(10) == b"x"
        except BlockingIOError:
            continue
    node.steps()
    node.steps()
    assert (node.version, node.problem) == (3, "")
    assert node.listeners.groups.keys() == {first}
    assert not node.listeners.leaving


def test_what_cannot_be_opened_is_tried_again_and_changes_nothing_meanwhile(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        taken = int(other.getsockname()[1])
        node.want(1, listener=[node.at(node.port), node.at(taken)], store={"retention_days": 3})
        node.steps()
        assert node.problem.startswith(f"cannot listen on {node.name(taken)}: Address already")
        assert (node.version, node.workers.generation, node.replaced) == (0, 0, 0)
        assert node.workers.config == node.config
    node.steps()
    assert node.version == 0
    monkeypatch.setattr(node.transition, "_not_before", 0.0)
    node.steps()
    assert (node.version, node.problem, node.replaced) == (1, "", 1)


def test_errors_are_told_until_there_are_none(node: Node) -> None:
    node.want(1, allow=["10.0.0.0/8"])
    node.transition.hear({"errors": ["settings.json: not JSON; correct it"], "asked": False})
    node.steps()
    assert (node.version, node.problem) == (0, "settings.json: not JSON; correct it")
    assert node.workers.config == node.config
    node.want(0)
    assert node.problem == ""


def test_a_key_that_needs_a_restart_is_pending_and_not_used(node: Node) -> None:
    receive = {"shards": 1, "max_workers": 1, "receive_buffer": 1 << 20}
    node.want(1, receive=receive, allow=["10.0.0.0/8"])
    node.steps()
    assert node.transition.report()["pending_restart"] == ["receive.shards"]
    assert node.workers.config.receive.shards == 2
    assert str(node.workers.config.allow[0]) == "10.0.0.0/8"
    node.want(2)
    assert node.transition.report()["pending_restart"] == []
