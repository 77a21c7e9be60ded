"""What a user of the lab's cluster sees, asked from outside the nodes.

Run by verify.yml; by hand while a lab is up: python -m pytest molecule/default/test_cluster.py
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import machine
from lab.cluster import SECRETS
from lab.machine import Machine
from lab.network import HOSTS
from measure.cluster import Cluster, data_dir
from measure.judge import judge
from tests.builders import ipfix, record, set_of, template_set

VIPS = {"v1": ("10.77.0.101", "fd77::101"), "v2": ("10.77.0.102", "fd77::102")}
TOKEN = Path(SECRETS, "token").read_text().strip() if Path(SECRETS, "token").exists() else ""
PKI = Path(SECRETS, "pki")
EXPORTER = HOSTS[0]
FIELDS = ((0, 8, 4), (0, 12, 4), (0, 1, 8), (0, 2, 8))
"""sourceIPv4Address, destinationIPv4Address, octetDeltaCount, packetDeltaCount."""

pytestmark = pytest.mark.skipif(not TOKEN, reason="no lab is up here: make cluster makes one")


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    found = Cluster.of_lab(VIPS["v1"][0])
    found.wait(found.healthy, 60, "the cluster is not healthy")
    return found


def wait_for(true: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"{what}: not after {seconds:g} s"
        time.sleep(0.1)
    return found


def status(node: Machine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.call("tandem", "status", "--json", check=False))
    return found


def https(host: str, path: str, token: str | None = TOKEN) -> tuple[int, Any]:
    """Status and document of the API at ``host``, trusting only the cluster's CA."""
    context = ssl.create_default_context(cafile=str(PKI / "cluster-ca.pem"))
    name = f"[{host}]" if ":" in host else host
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"https://{name}:8443{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_every_vip_has_one_holder_and_every_node_works(cluster: Cluster) -> None:
    wait_for(lambda: not status(cluster.nodes[0])["problems"], 30, "no problems")
    for node in cluster.nodes:
        found = status(node)
        assert found["problems"] == []
        assert {one["name"] for one in found["nodes"]} == {n.name for n in cluster.nodes}
        holders = [vip["holders"] for vip in found["vips"]]
        assert sorted(map(len, holders)) == [1, 1]
        assert holders[0] != holders[1]


@pytest.mark.parametrize("address", [a for both in VIPS.values() for a in both])
def test_the_api_answers_at_every_vip_with_a_certificate_and_wants_a_token(
    cluster: Cluster, address: str
) -> None:
    assert https(address, "/v1/cluster")[1]["cluster"] == "lab"
    assert https(address, "/v1/cluster", token=None)[0] == 401
    assert https(address, "/v1/cluster", token="wrong" * 8)[0] == 401
    assert https(address, "/livez", token=None)[0] == 200
    assert https(address, "/readyz", token=None)[0] == 200


def test_roles_by_status_code(cluster: Cluster) -> None:
    holder = {v: https(a[0], f"/active?vip={v}", token=None)[1]["node"] for v, a in VIPS.items()}
    for node in cluster.nodes:
        own = f"10.77.0.{11 + int(node.name[1:]) - 1}"
        for vip, name in holder.items():
            code = https(own, f"/active?vip={vip}", token=None)[0]
            assert code == (200 if name == node.name else 503)
        assert https(own, "/active?vip=v9", token=None)[0] == 404


def send(address: str, tmp_path: Path, name: str, protocol: str = "ipfix,v9,v5,sflow") -> Path:
    log = tmp_path / f"{name}.npz"
    command = [sys.executable, "-m", "measure", "send", address, "2055", "--log", str(log)]
    command += ["--netns", EXPORTER.namespace, "--rate", "2000", "--seconds", "1.5"]
    subprocess.run(
        [*command, "--protocol", protocol, "--run", str(time.time_ns() // 10**6 % 60000 + 1)],
        check=True,
        capture_output=True,
    )
    return log


def test_every_protocol_is_collected_at_every_vip(cluster: Cluster, tmp_path: Path) -> None:
    addresses = [a for both in VIPS.values() for a in both]
    logs = [send(address, tmp_path, str(i)) for i, address in enumerate(addresses)]
    found = judge(logs, {node.name: data_dir(node) for node in cluster.nodes})
    assert found.passed, found.text()
    assert (found.lost, found.on_two_nodes) == (0, 0)
    assert found.sent == found.stored > 4 * 2900


def message(domain: int, sequence: int) -> bytes:
    values = (b"\xc6\x33\x64\x01", b"\xcb\x00\x71\x02", (4711).to_bytes(8), (3).to_bytes(8))
    sets = [template_set(256, FIELDS, True), set_of(256, record(FIELDS, values))]
    return ipfix(sets, domain=domain, sequence=sequence)


IPFIX_CLIENT = """
import socket, ssl, sys
port, certificate, ca = int(sys.argv[2]), sys.argv[3], sys.argv[4]
raw = socket.create_connection((sys.argv[1], port), 5, source_address=("10.77.0.203", 0))
if certificate or ca:
    context = ssl.create_default_context(cafile=ca)
    if certificate:
        context.load_cert_chain(certificate, certificate.replace(".pem", ".key"))
    raw = context.wrap_socket(raw, server_hostname=sys.argv[1])
raw.sendall(sys.stdin.buffer.read())
raw.settimeout(1)
try:
    sys.exit(0 if raw.recv(1) else 3)
except TimeoutError:
    sys.exit(0)
"""


def ipfix_session(port: int, body: bytes, certificate: str = "", ca: str = "") -> int:
    command = ["nsenter", f"--net=/run/netns/{EXPORTER.namespace}", sys.executable, "-c"]
    arguments = [VIPS["v1"][0], str(port), certificate, ca]
    return subprocess.run(
        [*command, IPFIX_CLIENT, *arguments], input=body, capture_output=True, check=False
    ).returncode


@pytest.mark.parametrize("port", [4739, 4740])
def test_ipfix_over_tcp_and_tls_keeps_the_exporters_address(cluster: Cluster, port: int) -> None:
    domain = time.time_ns() // 10**6 % 10**9
    tls = port == 4740
    # until it has a certificate of the exporters' CA, a client gets nowhere
    certificate, ca = str(PKI / "exporters/lab-exporter.pem"), str(PKI / "cluster-ca.pem")
    if tls:
        assert ipfix_session(port, message(domain, 0), ca=ca) != 0
    assert ipfix_session(port, message(domain, 0), *((certificate, ca) if tls else ())) == 0
    query = (
        "SELECT ip(exporter) AS exporter, bytes FROM flows "
        f"WHERE observation_domain = {domain} AND bytes = 4711"
    )

    def stored() -> list[Any]:
        said = [n.call("tandem", "sql", "--json", query, check=False) for n in cluster.nodes]
        return [json.loads(line) for text in said for line in text.splitlines()]

    assert wait_for(stored, 15, "stored") == [{"exporter": "10.77.0.203", "bytes": 4711}]


def test_what_is_between_nodes_is_closed_to_others(cluster: Cluster) -> None:
    probe = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)"
    enter = ["nsenter", f"--net=/run/netns/{HOSTS[1].namespace}", sys.executable, "-c", probe]
    peer = cluster.nodes[1].call("python3", "-c", probe, "10.77.0.11", "8444", check=False)
    assert peer == ""
    for port, open_ in ((8444, False), (14739, False), (8443, True), (8080, False)):
        done = subprocess.run([*enter, "10.77.0.11", str(port)], capture_output=True, check=False)
        assert (done.returncode == 0) == open_, f"port {port}"


def test_no_secret_is_readable_and_no_token_is_on_a_node(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    readable = node.call(
        *("find", "/etc/tandem", "/etc/haproxy/tandem", "-type", "f", "-perm", "/o+r"),
        *("!", "-name", "*ca.pem"),
    )
    assert readable.split() == []
    places = [
        "/etc",
        "/opt/tandem/current",
        "/var/lib/tandem-api",
        "/run/tandem",
        "/run/tandem-api",
    ]
    assert node.call("grep", "-rlF", TOKEN, *places, check=False) == ""


def test_a_hung_writer_of_the_track_file_is_replaced_and_no_vip_moves(cluster: Cluster) -> None:
    holder = cluster.holder()

    def pid() -> str:
        return holder.call(
            "systemctl", "show", "--property=MainPID", "--value", "tandem-health"
        ).strip()

    before = pid()
    holder.call("kill", "-STOP", before)
    wait_for(lambda: pid() not in (before, "0"), 15, "another writer")
    wait_for(cluster.healthy, 15, "healthy")
    assert [node.name for node in cluster.holders()] == [holder.name]


def test_prometheus_sees_all_nodes_and_every_panel_has_data(cluster: Cluster) -> None:
    watcher = next((m for m in machine.existing() if not data_dir(m).is_dir()), None)
    if watcher is None or watcher.leader is None:
        pytest.skip("no machine watches this lab")
    enter = ["nsenter", "-n", "-t", str(watcher.leader), sys.executable]
    ask = "import sys,urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
    url = "http://127.0.0.1:9090"

    def targets_up() -> bool:
        said = subprocess.run(
            [*enter, "-c", ask, f"{url}/api/v1/query?query=up"], capture_output=True, check=False
        ).stdout
        found = json.loads(said)["data"]["result"] if said else []
        return len(found) >= 5 and all(one["value"][1] == "1" for one in found)

    wait_for(targets_up, 60, "all targets up")

    def all_panels() -> str:
        done = subprocess.run(
            [*enter, "-m", "tests.monitoring.queries", "--url", url, "--without", "keepalived_"],
            capture_output=True,
            text=True,
            check=False,
        )
        answers.append(done.stdout + done.stderr)
        return "ok" if done.returncode == 0 else ""

    answers: list[str] = []
    try:
        wait_for(all_panels, 90, "data in every panel")
    except AssertionError:
        pytest.fail(answers[-1])
