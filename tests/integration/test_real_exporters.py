"""Debian's exporters read a capture and export it: what the collector stores is what was in it."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.store.files import visible
from demo.exporters import SOFTFLOWD_VERSIONS, Exporter, softflowd
from tests.capture_builders import ethernet, ip, pcap, udp
from tests.integration.harness import Collector, read, wait_for

Key = tuple[str, str, int, int]
PACKETS = 4000


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"{program} is not installed (make system, as root)"
    )


def sessions() -> list[tuple[str, str, int, int]]:
    """Conversations of UDP, both ways, of both address families."""
    chance = random.Random(2)
    found = []
    for n in range(60):
        pair = (f"10.1.0.{n % 7 + 1}", f"192.0.2.{n % 5 + 1}")
        if n % 4 == 0:
            pair = (f"2001:db8::{n % 7 + 1:x}", f"2001:db8:1::{n % 5 + 1:x}")
        found.append((*pair, chance.randint(1024, 65535), chance.choice([53, 443, 4500])))
    return found


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Key, tuple[int, int]]]:
    """A capture file, and the bytes and packets of each flow in it."""
    chance = random.Random(3)
    octets: Counter[Key] = Counter()
    count: Counter[Key] = Counter()
    packets = []
    conversations = sessions()
    for _ in range(PACKETS):
        source, target, sport, dport = chance.choice(conversations)
        if chance.random() < 0.4:
            source, target, sport, dport = target, source, dport, sport
        packet = ip(udp(bytes(chance.randint(1, 1400)), sport, dport), pair=(source, target))
        packets.append(ethernet(packet))
        octets[source, target, sport, dport] += len(packet)
        count[source, target, sport, dport] += 1
    path = tmp_path_factory.mktemp("capture") / "traffic.pcap"
    path.write_bytes(pcap(packets))
    return path, {key: (octets[key], count[key]) for key in octets}


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    collector = Collector(tmp_path)
    collector.start()
    yield collector
    collector.end()


def text(octets: bytes) -> str:
    mapped = ip_address(octets)
    return str(getattr(mapped, "ipv4_mapped", None) or mapped)


def stored(collector: Collector, octets: str = "bytes") -> dict[Key, tuple[int, int]]:
    """Bytes and packets of each flow in the store; a sample of sFlow is one packet."""
    total: dict[Key, tuple[int, int]] = {}
    for path in visible(collector.data / "store" / "flows"):
        for row in read(path).to_pylist():
            key = (
                *(text(getattr(row[a], "bytes", row[a])) for a in ("src_addr", "dst_addr")),
                row["src_port"],
                row["dst_port"],
            )
            before = total.get(key, (0, 0))
            total[key] = before[0] + row[octets], before[1] + (row.get("packets") or 1)
    return total


def assert_balanced(collector: Collector) -> None:
    wait_for(lambda: all(s["balanced"] for s in collector.node()["shards"]), 5, "balance")


@needs("softflowd")
@pytest.mark.parametrize("protocol", list(SOFTFLOWD_VERSIONS))
def test_softflowd_flows_add_up_to_its_capture(
    protocol: str,
    capture: tuple[Path, dict[Key, tuple[int, int]]],
    collector: Collector,
    tmp_path: Path,
) -> None:
    path, traffic = capture
    command = softflowd(protocol, f"127.0.0.1:{collector.port}", tmp_path, ["-r", str(path)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if protocol == "NetFlow v5":
        # which has no room for IPv6
        traffic = {key: value for key, value in traffic.items() if "." in key[0]}
    wait_for(lambda: len(stored(collector)) >= len(traffic), 20, "all flows stored")
    assert stored(collector) == traffic
    assert_balanced(collector)


def run_pmacctd(protocol: str, path: Path, collector: Collector, folder: Path) -> None:
    """Let pmacctd read the capture ``path``, and end; it samples every packet."""
    command = Exporter("pmacctd", protocol, collector.port).command("", "127.0.0.1", folder)
    config = Path(command[-1])
    lines = config.read_text().replace("pcap_interface: \n", f"pcap_savefile: {path}\n")
    config.write_text(lines.replace("sampling_rate: 8", "sampling_rate: 1"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout + done.stderr
    # at the end of a capture its core and its plug-in part; if the plug-in is first, it says 1
    assert done.returncode == 0 or "no more plugins active" in said, said


@needs("pmacctd")
def test_nfprobe_flows_add_up_to_its_capture(
    capture: tuple[Path, dict[Key, tuple[int, int]]], collector: Collector, tmp_path: Path
) -> None:
    path, traffic = capture
    run_pmacctd("NetFlow v9", path, collector, tmp_path)
    wait_for(lambda: stored(collector) == traffic, 20, "all flows stored")
    assert_balanced(collector)


@needs("pmacctd")
def test_sfprobe_samples_are_the_packets_of_its_capture(
    capture: tuple[Path, dict[Key, tuple[int, int]]], collector: Collector, tmp_path: Path
) -> None:
    path, traffic = capture
    run_pmacctd("sFlow", path, collector, tmp_path)
    # sfprobe keeps the samples of its last datagram, at most, to itself when a capture ends
    least = PACKETS - 8

    def samples() -> int:
        return sum(packets for _, packets in stored(collector, "ip_len").values())

    wait_for(lambda: samples() >= least, 20, "all but the last samples stored")
    found = stored(collector, "ip_len")
    assert found.keys() == traffic.keys()
    incomplete = 0
    for key, (octets, packets) in traffic.items():
        missing = packets - found[key][1]
        assert missing >= 0
        assert octets == found[key][0] or missing
        incomplete += missing
    assert incomplete <= PACKETS - least
    assert_balanced(collector)
