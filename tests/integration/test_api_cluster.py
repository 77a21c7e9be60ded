"""Two API processes of one cluster, on 127.0.0.2 and 127.0.0.3: what they know of each other."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from appliance.cli.main import tandem
from tests.integration.cluster import TOKEN, Authority, Node, start
from tests.integration.harness import free_port, wait_for

ADDRESSES = {"n1": "127.0.0.2", "n2": "127.0.0.3"}
Pair = tuple[Node, Node]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Pair]:
    port = free_port(socket.SOCK_STREAM)
    folder = tmp_path_factory.mktemp("nodes")
    one, two = (Node(folder / name, name, ADDRESSES, port, authority) for name in ADDRESSES)
    yield one, two
    one.end()
    two.end()


@pytest.fixture
def pair(nodes: Pair) -> Pair:
    """Both run, all is well, and nothing is drained."""
    for node in nodes:
        node.collect()
        node.write_config()
    start(*nodes)
    one, two = nodes
    for node in nodes:
        undrain = f"/v1/nodes/{node.name}/drain"
        wait_for(lambda: node.request("DELETE", undrain)[0] == 200, 5, "no drain")  # noqa: B023
    wait_for(lambda: known(one, "n2") and known(two, "n1"), 20, "peers")
    return nodes


def known(node: Node, name: str) -> bool:
    member = node.member(name)
    return bool(member["ready"]) and member["drain"] == {"node": False, "vips": []}


def test_each_node_knows_the_other(pair: Pair) -> None:
    one, two = pair
    view = one.get("/v1/cluster")
    assert [n["name"] for n in view["nodes"]] == ["n1", "n2"]
    other = one.member("n2")
    assert (other["ready"], other["health"], other["balanced"]) == (True, "ok", True)
    assert other["roles"] == {"v1": "standby", "v2": "standby"}
    assert abs(other["clock_offset_seconds"]) < 0.2
    assert other["config_sha256"] == one.member("n1")["config_sha256"]
    assert [v["holders"] for v in view["vips"]] == [[], []]
    assert "no node that answers holds v1" in view["problems"]
    assert not any("differ" in problem for problem in view["problems"])
    assert two.get("/v1/node")["collector"]["node"] == "n2"


def test_a_dead_peer_and_a_hung_peer_are_unreachable_and_nothing_waits_for_them(pair: Pair) -> None:
    one, two = pair
    two.signal(signal.SIGSTOP)
    wait_for(lambda: not one.member("n2")["reachable"], 10, "the hung peer noticed")
    slowest = 0.0
    for _ in range(20):
        begun = time.monotonic()
        assert one.request("GET", "/readyz")[0] == 200
        assert one.request("GET", "/v1/cluster")[0] == 200
        slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 0.5
    assert "no answer within 1 s" in one.member("n2")["problem"]
    two.signal(signal.SIGCONT)
    wait_for(lambda: one.member("n2")["reachable"], 10, "the peer back")
    two.kill()
    wait_for(lambda: not one.member("n2")["reachable"], 10, "the dead peer noticed")
    assert any(p.startswith("n2 does not answer") for p in one.problems())
    assert one.member("n2")["roles"]["v1"] == "unknown"


def test_a_drain_is_forwarded_written_and_undone(pair: Pair) -> None:
    one, two = pair
    assert (two.track("drain"), two.track("drain-v1")) == ("0", "0")
    for _ in range(2):
        status, answer = one.request("PUT", "/v1/nodes/n2/drain?vip=v1")
        assert (status, answer["vips"], answer["drained"]) == (200, ["v1"], False)
    assert (two.track("drain"), two.track("drain-v1")) == ("0", "-100")
    assert one.track("drain-v1") == "0"
    wait_for(lambda: one.member("n2")["roles"]["v1"] == "draining", 5, "the drain known")
    assert two.request("GET", "/standby?vip=v1")[0] == 503
    assert two.request("GET", "/standby?vip=v2")[0] == 200
    assert one.request("PUT", "/v1/nodes/n2/drain")[0] == 200
    assert two.track("drain") == "-100"
    status, answer = one.request("DELETE", "/v1/nodes/n2/drain")
    assert (status, answer["vips"], answer["drained"]) == (200, [], False)
    assert (two.track("drain"), two.track("drain-v1")) == ("0", "0")


def test_a_drain_survives_the_api(pair: Pair) -> None:
    one, _ = pair
    assert one.request("PUT", "/v1/nodes/n1/drain?vip=v2")[0] == 200
    one.kill()
    assert one.track("drain-v2") == "-100"
    start(one)
    assert one.get("/v1/node")["drain"] == {"node": False, "vips": ["v2"]}


def test_a_drain_that_would_leave_nobody_is_refused(pair: Pair) -> None:
    one, two = pair
    assert one.request("PUT", "/v1/nodes/n2/drain")[0] == 200
    wait_for(lambda: one.member("n2")["drain"]["node"], 5, "the drain known")
    status, problem = one.request("PUT", "/v1/nodes/n1/drain")
    assert (status, "is drained itself" in problem["detail"]) == (409, True)
    # the node that is drained decides, whoever is asked
    assert two.request("PUT", "/v1/nodes/n1/drain?vip=v1")[0] == 409
    assert one.track("drain") == "0"
    assert one.request("PUT", "/v1/nodes/n1/drain?force=true")[0] == 200
    assert one.request("PUT", "/v1/nodes/n1/drain")[0] == 200, "it is drained already"
    one.request("DELETE", "/v1/nodes/n1/drain")
    one.request("DELETE", "/v1/nodes/n2/drain")
    two.health("hung", "shard 0")
    wait_for(lambda: one.member("n2")["ready"] is False, 5, "the sick peer noticed")
    status, problem = one.request("PUT", "/v1/nodes/n1/drain?vip=v1")
    assert (status, "hung: shard 0" in problem["detail"]) == (409, True)
    two.kill()
    status, problem = one.request("PUT", "/v1/nodes/n2/drain")
    assert (status, problem["title"]) == (502, "The node does not answer")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/nodes/n3/drain", 404),
        ("/v1/nodes/n2/drain?vip=v9", 404),
        ("/v1/nodes/n2/drain?vips=v1", 422),
        ("/v1/nodes/n2/drain?vip=v1&vip=v2", 422),
        ("/active?vip=v9", 405),
    ],
)
def test_a_wrong_drain_changes_nothing(pair: Pair, path: str, status: int) -> None:
    one, two = pair
    found, problem = one.request("PUT", path)
    assert (found, problem["status"]) == (status, status)
    assert two.track("drain") == "0"


def test_only_tokens_let_in_and_only_health_checks_need_none(pair: Pair) -> None:
    one, _ = pair
    for path in ("/v1/cluster", "/v1/node", "/metrics", "/openapi.json", "/nothing"):
        assert one.request("GET", path, token=None)[0] == 401, path
        assert one.request("GET", path, token="wrong")[0] == 401, path
    for path in ("/livez", "/readyz", "/standby"):
        for method in ("GET", "HEAD", "OPTIONS"):
            assert one.request(method, path, token=None)[0] in (200, 204), (method, path)
    assert one.request("GET", "/active", token=None)[0] == 503
    assert one.request("PUT", "/v1/nodes/n2/drain", token=None)[0] == 401
    local = one.folder / "run" / "local.token"
    assert stat.S_IMODE(local.stat().st_mode) == 0o640
    assert one.request("GET", "/v1/node", token=local.read_text().strip())[0] == 200
    assert one.request("GET", "/v1/node", token="ä")[0] == 401
    assert TOKEN not in json.dumps(one.get("/v1/cluster")) + one.log()


def test_the_token_file_is_read_again_and_without_it_no_token_of_it_is_good(pair: Pair) -> None:
    one, _ = pair
    file = one.folder / "tokens"
    good = file.read_text()
    file.write_text("0" * 64 + "\n")
    wait_for(lambda: one.request("GET", "/v1/node")[0] == 401, 5, "the old token refused")
    file.write_text(good)
    wait_for(lambda: one.request("GET", "/v1/node")[0] == 200, 5, "the new token taken")
    file.unlink()
    wait_for(lambda: one.request("GET", "/v1/node")[0] == 401, 5, "no file, no token")


def test_a_body_is_bounded(pair: Pair) -> None:
    one, _ = pair
    assert one.request("PUT", "/v1/nodes/n2/drain", **{"Content-Length": "70000"})[0] == 413
    assert one.request("GET", "/v1/node", **{"Transfer-Encoding": "chunked"})[0] == 411


def peer_get(
    node: Node, certificate: Path | None, authority: Authority, header: str = ""
) -> int | None:
    """The status; None where the node ends the connection."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if certificate is not None:
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    address = ADDRESSES[node.name]
    try:
        with (
            socket.create_connection((address, node.cluster_port), 5) as raw,
            context.wrap_socket(raw, server_hostname=address) as sock,
        ):
            head = f"GET /v1/node HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n"
            sock.sendall(head.encode())
            answer = sock.recv(65536)
    except (ssl.SSLError, ConnectionError):
        return None
    return int(answer.split()[1]) if answer else None


def test_only_nodes_can_use_the_listener_of_nodes(
    pair: Pair, authority: Authority, tmp_path: Path
) -> None:
    one, two = pair
    assert peer_get(one, two.certificate, authority) == 200
    stranger = Authority(tmp_path / "other", "other").sign("n2", "127.0.0.3")
    server_only = authority.sign("vip", "127.0.0.9", usage="serverAuth")
    for certificate in (None, stranger, server_only):
        assert peer_get(one, certificate, authority) is None


def test_what_a_node_passes_on_for_others_needs_their_token(
    pair: Pair, authority: Authority
) -> None:
    one, two = pair
    passed_on = "X-Forwarded-For: 198.51.100.9\r\n"
    assert peer_get(one, two.certificate, authority, passed_on) == 401
    with_token = f"{passed_on}Authorization: Bearer {TOKEN}\r\n"
    assert peer_get(one, two.certificate, authority, with_token) == 200


def test_nodes_that_differ_in_configuration_or_clock_are_a_problem(pair: Pair) -> None:
    one, two = pair
    two.kill()
    two.write_config(listener=2056)
    start(two)
    wait_for(lambda: any("configurations differ" in p for p in one.problems()), 10, "the drift")
    metrics = one_text(one)
    assert "tandem_cluster_config_drift 1" in metrics
    assert 'tandem_cluster_node_reachable{node="n2"} 1' in metrics


def one_text(node: Node) -> str:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=10)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    text = connection.getresponse().read().decode()
    connection.close()
    return text


NONSENSE = {
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}": "not a node's state: name",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\xff\xfe[[[": "no JSON",
    b'HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{"name":"n9","time_ns":123}': "mixed up",
    b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n": "status 503",
    b"\x00\x01\x02 not http\r\n\r\n": "illegal",
    b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n{": "without sending complete",
    b"": "disconnected",
}


def test_a_peer_that_answers_nonsense_is_unreachable_with_the_reason(
    pair: Pair, authority: Authority
) -> None:
    one, two = pair
    two.kill()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(two.certificate, two.certificate.with_suffix(".key"))
    answers = [b""]

    def serve(server: socket.socket) -> None:
        while server.fileno() >= 0:
            with contextlib.suppress(OSError):
                raw, _ = server.accept()
                with context.wrap_socket(raw, server_side=True) as sock:
                    sock.recv(65536)
                    sock.sendall(answers[-1])

    with socket.create_server((ADDRESSES["n2"], two.cluster_port)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        for answer, reason in NONSENSE.items():
            answers.append(answer)
            wait_for(lambda: reason in one.member("n2")["problem"], 10, reason)  # noqa: B023
            assert one.request("GET", "/readyz")[0] == 200
        assert one.member("n2")["reachable"] is False
        server.shutdown(socket.SHUT_RDWR)


def status_command(node: Node, *arguments: str) -> Any:
    url = f"http://127.0.0.1:{node.port}"
    return CliRunner().invoke(tandem, [*arguments, "--url", url], env={"TANDEM_TOKEN": TOKEN})


def test_the_command_line_shows_the_cluster_and_drains_it(pair: Pair, tmp_path: Path) -> None:
    one, two = pair
    shown = status_command(one, "status")
    assert shown.exit_code == 1, shown.output
    for text in ("Cluster tests", "n1", "n2", "standby", "nobody", "! no node that answers holds"):
        assert text in shown.output
    found = json.loads(status_command(one, "status", "--json").output)
    assert (found["node"], found["transitions"]) == ("n1", [])
    drained = status_command(one, "drain", "n2", "--no-wait")
    assert drained.exit_code == 0, drained.output
    assert two.track("drain") == "-100"
    waited = status_command(one, "drain", "n2", "--timeout", "0.3")
    assert waited.exit_code == 1
    assert "not moved within 0.3 s" in waited.output
    assert status_command(one, "drain", "n2", "--undo").exit_code == 0
    assert two.track("drain") == "0"
    wrong = CliRunner().invoke(tandem, ["status", "--url", f"http://127.0.0.1:{one.port}"])
    assert (wrong.exit_code, "--token-file" in wrong.output) == (2, True)
    gone = status_command(one, "drain", "n7")
    assert (gone.exit_code, "there is no node 'n7'" in gone.output) == (1, True)
    (tmp_path / "token").write_text(TOKEN)
    url = f"http://127.0.0.1:{one.port}"
    by_file = ["status", "--url", url, "--token-file", str(tmp_path / "token")]
    assert CliRunner().invoke(tandem, by_file).exit_code == 1


@pytest.mark.parametrize("gone", ["tokens", "ca", "key"])
def test_an_api_without_its_files_does_not_start_and_names_them(
    tmp_path: Path, authority: Authority, gone: str
) -> None:
    node = Node(tmp_path / "n1", "n1", ADDRESSES, free_port(socket.SOCK_STREAM), authority)
    config = node.folder / "tandem.toml"
    if gone == "tokens":
        (node.folder / "tokens").unlink()
    else:
        config.write_text(re.sub(f'\n{gone} = ".*"', f'\n{gone} = "none.pem"', config.read_text()))
    command = [sys.executable, "-m", "api", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    node.end()
    assert done.returncode == 1
    name = "api.token_file" if gone == "tokens" else f"cluster.{gone}"
    assert done.stderr.startswith(name)
    assert "cannot be read: No such file" in done.stderr
