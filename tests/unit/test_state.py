from __future__ import annotations

from pathlib import Path

import pytest

from appliance.decode.decoder import Decoder
from appliance.decode.elements import Registry
from appliance.state import StateError, StateReader
from appliance.store import retired
from appliance.store.checkpoint import Checkpoint
from appliance.store.retired import Reason, Retired
from tests.builders import template_set, v5, v5_record, v9
from tests.unit.node_samples import save, write_shard

SRC = (0, 8, 4)
UNKNOWN = (0, 32000, 2)
V5 = v5([v5_record(), v5_record()])
V9 = v9([template_set(256, [SRC, UNKNOWN], False)], domain=7)


def test_a_node_that_never_ran_has_an_empty_ledger(tmp_path: Path) -> None:
    reader = StateReader(tmp_path)
    assert reader.ledger().table.num_rows == 0
    assert reader.ledger().imbalances() == []
    assert reader.templates() == ([], 0)


def test_the_ledgers_of_all_shards_are_one(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, [("10.0.0.1", V5), ("10.0.0.1", V9)])
    write_shard(tmp_path, 1, [("10.0.0.2", V5), ("10.0.0.2", b"\0\0\0\0")])
    view = StateReader(tmp_path).ledger()
    rows = {
        (row["exporter"], row["protocol"], row["domain"]): row for row in view.table.to_pylist()
    }
    assert rows["10.0.0.1", "NETFLOW_V5", 0]["records_stored"] == 2
    assert rows["10.0.0.1", "NETFLOW_V9", 7]["datagrams_decoded"] == 1
    assert rows["10.0.0.2", "UNKNOWN", 0]["datagrams_unknown_version"] == 1
    assert view.torn == 2
    points = [Checkpoint.decode(p.read_bytes()) for p in tmp_path.glob("shards/*/checkpoint")]
    # a shard to which nothing comes writes no checkpoint, and does not make the ledger old
    assert view.updated_ns == max(point.updated_ns for point in points)
    assert view.imbalances() == []


def test_a_figure_that_does_not_add_up_is_named_with_its_exporter(tmp_path: Path) -> None:
    ledger = write_shard(tmp_path, 0, [("10.0.0.1", V5)])
    reader = StateReader(tmp_path)
    assert reader.ledger().imbalances() == []
    ledger.add("datagrams_received", 0)
    decoder = Decoder(Registry())
    decoder.load(next((tmp_path / "shards" / "0").glob("state-*")).read_bytes())
    save(tmp_path / "shards" / "0", ledger, decoder.dump())
    (found,) = reader.ledger().imbalances()
    assert found == (
        "10.0.0.1 NETFLOW_V5 domain 0: datagrams received and their dispositions: "
        "2 expected, 1 found"
    )


def test_templates_have_the_names_of_their_fields(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, [("2001:db8::1", V9)])
    ((template,), _) = StateReader(tmp_path).templates()
    assert (template["exporter"], template["protocol"]) == ("2001:db8::1", "NETFLOW_V9")
    assert (template["domain"], template["id"]) == (7, 256)
    assert [f["name"] for f in template["fields"]] == ["sourceIPv4Address", None]


def test_a_file_of_elements_of_ones_own_names_fields(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("pen,id,name,type\n0,32000,colour,unsigned16\n")
    write_shard(tmp_path, 0, [("10.0.0.1", V9)])
    ((template,), _) = StateReader(tmp_path, [own]).templates()
    assert template["fields"][1]["name"] == "colour"


def test_a_new_checkpoint_is_seen(tmp_path: Path) -> None:
    reader = StateReader(tmp_path)
    write_shard(tmp_path, 0, [("10.0.0.1", V5)])
    assert reader.ledger().table["datagrams_received"].to_pylist() == [1]
    assert reader.templates() == ([], 0)
    write_shard(tmp_path, 0, [("10.0.0.1", V5), ("10.0.0.1", V5), ("10.0.0.1", V9)])
    assert reader.ledger().table["datagrams_received"].to_pylist() == [2, 1]
    assert reader.templates()[1] == 1


def test_a_damaged_checkpoint_is_named_and_left_alone(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, [("10.0.0.1", V5)])
    path = tmp_path / "shards" / "0" / "checkpoint"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StateError, match=str(path)):
        StateReader(tmp_path).ledger()
    assert path.exists()


def test_records_that_retention_removed_are_counted_by_exporter(tmp_path: Path) -> None:
    gone = Retired()
    gone.tally("flows", Reason.EXPIRED).exporters["10.0.0.1"] = 5
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / retired.RETIRED).write_bytes(gone.encode())
    assert StateReader(tmp_path).ledger().retired[Reason.EXPIRED] == {"10.0.0.1": 5}
