"""Scrapes of keepalived do not disturb VRRP: real keepalived, real dumps, ten a second."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.harness import wait_for
from tests.monitoring.vrrp_pair import ADVERT_SECONDS, AdvertClock, Node, Pair

ROLE = Path("roles/keepalived_exporter")
SECONDS = 20
RATE = 10
PORT = 9165

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("keepalived"),
    reason="needs root and keepalived: network namespaces with VRRP between them",
)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair() as made:
        yield made


@pytest.fixture
def exporter() -> str:
    """The program that the role installs, as built or given on this machine."""
    version = yaml.safe_load((ROLE / "defaults/main.yml").read_text())[
        "keepalived_exporter_version"
    ]
    given = os.environ.get("KEEPALIVED_EXPORTER")
    built = Path.home() / f".cache/tandem/keepalived-exporter/{version}/keepalived-exporter"
    if given or built.exists():
        return given or str(built)
    pytest.skip(
        f"no keepalived-exporter {version}: the role builds it with Go into {built.parent}; "
        "or name one in KEEPALIVED_EXPORTER"
    )


def undisturbed(pair: Pair, scrape: Callable[[Node], None]) -> None:
    """Scrape both nodes RATE times a second for SECONDS; nothing may change but counters."""
    master, standby = sorted(pair.nodes, key=lambda node: not node.master())
    before = [node.dump() for node in (master, standby)]
    with AdvertClock(standby) as clock:
        start = time.monotonic()
        for turn in range(SECONDS * RATE):
            time.sleep(max(0.0, start + turn / RATE - time.monotonic()))
            for node in pair.nodes:
                scrape(node)
        lasted = time.monotonic() - start
    after = [node.dump() for node in (master, standby)]

    for was, now in zip(before, after, strict=True):
        assert now["data"]["state"] == was["data"]["state"]
        for count in ("become_master", "release_master", "pri_zero_sent", "advert_interval_err"):
            assert now["stats"][count] == was["stats"][count], count
    sent = after[0]["stats"]["advert_sent"] - before[0]["stats"]["advert_sent"]
    received = after[1]["stats"]["advert_rcvd"] - before[1]["stats"]["advert_rcvd"]
    assert abs(sent - received) <= 1  # the two are not asked at the same moment
    assert sent >= lasted / ADVERT_SECONDS * 0.98
    # a standby takes over after three adverts' time: none may even be missed
    assert max(clock.gaps) < 2 * ADVERT_SECONDS
    print(
        f"{sent} adverts sent, {received} received; between two of them "
        f"{statistics.median(clock.gaps) * 1e3:.1f} ms, at most {max(clock.gaps) * 1e3:.1f} ms"
    )


def test_dumps_do_not_disturb_adverts(pair: Pair) -> None:
    """All that a scrape asks of keepalived: one signal, one file."""
    undisturbed(pair, Node.ask)


def test_scrapes_do_not_disturb_adverts(exporter: str, pair: Pair) -> None:
    running = []
    for node in pair.nodes:
        # as in the unit: keepalived's directory is the exporter's /tmp
        command = f'mount --bind "{node.directory}" /tmp && exec "$@"'
        flags = ["--ka.json", f"--ka.pid-path={node.pid_file}"]
        listen = f"--web.listen-address={node.address}:{PORT}"
        running.append(
            node.run("unshare", "--mount", "sh", "-c", command, "sh", exporter, *flags, listen)
        )
    try:
        wait_for(lambda: all("keepalived_up 1" in fetch(n) for n in pair.nodes), 10, "a scrape")
        failed = []

        def scrape(node: Node) -> None:
            text = fetch(node)
            if "keepalived_up 1" not in text or "keepalived_vrrp_state" not in text:
                failed.append(text)

        undisturbed(pair, scrape)
        assert not failed
    finally:
        for process in running:
            process.terminate()
            process.wait(10)


def fetch(node: Node) -> str:
    """One scrape, from inside the node's namespace."""
    found = subprocess.run(
        ["nsenter", f"--net=/run/netns/{node.namespace}", "curl", "--silent", "--max-time", "3",
         f"http://{node.address}:{PORT}/metrics"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return found.stdout
