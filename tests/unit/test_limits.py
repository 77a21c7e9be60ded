"""What a limit makes a shard give up is counted, survives a restart, and is reported."""

from __future__ import annotations

from pathlib import Path

from tests import builders as b
from tests.shard_tools import config_of, deliver, let_go, open_shard, settle

FIELDS: list[b.Field] = [(0, 1, 4)]


def test_templates_beyond_the_limit_are_counted_in_the_report(tmp_path: Path) -> None:
    config = config_of(tmp_path, limits={"templates_per_exporter": 3})
    shard = open_shard(config)
    deliver(shard, [b.ipfix([b.template_set(256 + i, FIELDS, True)]) for i in range(5)])
    settle(shard)
    assert shard.report()["templates_evicted"] == 2
    let_go(shard)
    again = open_shard(config)
    assert again.report()["templates_evicted"] == 2
    assert again.report()["options_evicted"] == 0
    let_go(again)
