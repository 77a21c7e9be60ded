"""With three nodes, one that takes no part sends the load of a drill."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.drills import DrillLab, usable
from tests.integration.harness import wait_for
from tests.integration.test_drills import begin, check, dry, ended
from tests.integration.vips import ADDRESSES

pytestmark = [
    pytest.mark.skipif(not usable(), reason="needs root, keepalived and nftables"),
    pytest.mark.timeout(240),
]


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrillLab]:
    lab = DrillLab(tmp_path_factory.mktemp("lab"), {**ADDRESSES, "n3": "10.99.0.3"})
    try:
        lab.vips_on_lo()
        lab.start()
        yield lab
    finally:
        lab.close()


def test_a_third_node_sends_the_load_and_takes_nothing(lab: DrillLab) -> None:
    node = next(iter(lab.nodes.values()))
    wait_for(lambda: dry(node, "keepalived-stop")["ok"], 60, lambda: str(dry(node, "switchover")))
    old = lab.holder("v1")
    source = next(name for name in lab.nodes if name != old)
    drill = ended(node, begin(node, "keepalived-stop", source=source))
    report = drill["report"]
    assert drill["operation"]["state"] == "succeeded", drill["operation"]
    assert report["exporters"] == [lab.nodes[source].addresses[source]]
    assert report["after"] not in (old, source), "it was not there to be taken"
    check(lab, report)
    assert report["problems"] == []
    mine = next(n for n in report["nodes"] if n["node"] == source)
    assert mine["stored"] == 0, "it has sent nothing to itself"
    assert not any(n.get("/v1/node")["drain"]["vips"] for n in lab.nodes.values())
