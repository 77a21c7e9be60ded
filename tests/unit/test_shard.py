"""A shard, whatever happens to its process or its disk: each record stored once, all counted."""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.config import Config
from appliance.decode import Decoder
from appliance.decode.context import DecodeContext
from appliance.decode.netflow import TemplateDecoder
from appliance.journal.block import Block
from appliance.shard import Shard
from tests import builders as b
from tests.shard_tools import (
    config_of,
    deliver,
    disk_full,
    input_output_error,
    interrupted,
    ledger,
    leftovers,
    let_go,
    numbers,
    open_shard,
    power_off,
    rows,
    settle,
)

NARROW: list[b.Field] = [(0, 1, 4)]
WIDE: list[b.Field] = [(0, 1, 8), (0, 2, 4)]
Batch = list[tuple[str, list[bytes]]]


def narrow(template: int, *values: int) -> bytes:
    return b.set_of(template, b"".join(struct.pack(">I", v) for v in values))


def wide(template: int, *values: int) -> bytes:
    return b.set_of(template, b"".join(struct.pack(">QI", v, 1) for v in values))


def v5(first: int, count: int) -> bytes:
    return b.v5([b.v5_record(octets=first + i) for i in range(count)], sequence=first)


def traffic() -> list[Batch]:
    """Four flushes of datagrams: their state matters to each other, and their flows are numbered.

    One exporter changes a template, another sends data before its template, a third loses some.
    """
    names = [(0, 10, 4), (0, 82, 8)]
    interface = struct.pack(">I", 7) + b"uplink\0\0"
    samples = [b.counter_sample([b.tagged(1, bytes(88))])]
    v9, late, old, sflow = "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"
    return [
        [
            (v9, [b.v9([b.template_set(256, NARROW, False), narrow(256, 1, 2)], sequence=0)]),
            (late, [b.ipfix([narrow(300, 1001, 1002)], sequence=0)]),
            (old, [v5(2000, 3), v5(2003, 3)]),
        ],
        [
            (v9, [b.v9([narrow(256, 3, 4, 5)], sequence=1), b"\0\x09junk"]),
            (late, [b.ipfix([narrow(300, 1003)], sequence=2)]),
            (sflow, [b.sflow(samples)]),
            (old, [v5(2020, 5)]),
        ],
        [
            (v9, [b.v9([b.options_set(257, names[:1], names[1:], False)], sequence=2)]),
            (v9, [b.v9([b.set_of(257, interface)], sequence=3)]),
            (v9, [b.v9([b.template_set(256, WIDE, False), wide(256, 6, 7)], sequence=4)]),
            (late, [b.ipfix([b.template_set(300, NARROW, True), narrow(300, 1004)], sequence=3)]),
            (late, [b.ipfix([narrow(301, 1100)], sequence=4, domain=5)]),
        ],
        [
            (v9, [b.v9([wide(256, 8)], sequence=5)]),
            (late, [b.ipfix([narrow(300, 1005)], sequence=4)]),
            (old, [v5(2025, 2)]),
        ],
    ]


NUMBERS = Counter(
    [*range(1, 9), *range(1001, 1006), *range(2000, 2006), *range(2020, 2025), 2025, 2026]
)


def hand_over(shard: Shard, batch: Batch) -> None:
    for exporter, payloads in batch:
        deliver(shard, payloads, exporter)


def run(shard: Shard, batches: list[Batch]) -> None:
    for batch in batches:
        hand_over(shard, batch)
        settle(shard)


def assert_all_is_well(config: Config, shard: Shard, expected: list[dict[str, Any]]) -> None:
    assert numbers(config) == NUMBERS
    assert len(rows(config, "counters")) == 1
    assert len(rows(config, "options")) == 1
    assert ledger(shard) == expected
    report = shard.report()
    assert report["balanced"], report["imbalances"]


Undisturbed = tuple[list[dict[str, Any]], int]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The ledger after :func:`traffic`, and how many calls to the file system its flushes take."""
    config = config_of(tmp_path_factory.mktemp("undisturbed"))
    shard = open_shard(config)
    calls: list[str] = []
    for batch in traffic():
        hand_over(shard, batch)
        with interrupted(-1, power_off, calls):
            settle(shard)
    expected = ledger(shard)
    assert_all_is_well(config, shard, expected)
    assert leftovers(config, shard) == []
    let_go(shard)
    return expected, len(calls)


def test_killed_at_any_call_to_the_file_system_everything_is_stored_once(
    tmp_path: Path, undisturbed: Undisturbed
) -> None:
    expected, calls = undisturbed
    for at in range(calls):
        directory = tmp_path / str(at)
        config = config_of(directory)
        given = mmap.mmap(-1, 1)
        pid = os.fork()
        if pid == 0:
            shard = open_shard(config)
            for batch in traffic():
                hand_over(shard, batch)
                given[0] += 1
                with interrupted(at, power_off, seen := []):
                    settle(shard)
                at -= len(seen)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 77
        shard = open_shard(config)
        settle(shard)
        run(shard, traffic()[given[0] :])
        assert_all_is_well(config, shard, expected)
        assert leftovers(config, shard) == []
        let_go(shard)


def test_what_a_tcp_session_had_sent_is_decoded_after_a_crash_and_then_its_templates_go(
    tmp_path: Path,
) -> None:
    config = config_of(tmp_path)
    shard = open_shard(config)
    deliver(shard, [b.ipfix([b.template_set(256, NARROW, True), narrow(256, 1)])], session=7)
    deliver(shard, [b.ipfix([narrow(300, 10)], sequence=1)], session=7)
    settle(shard)
    deliver(shard, [b.ipfix([narrow(256, 2)], sequence=2)], session=7)
    template = b.template_set(300, NARROW, True)
    deliver(shard, [b.ipfix([template], sequence=3), b.ipfix([narrow(301, 20)])], session=7)
    let_go(shard)
    shard = open_shard(config)
    # with the process all its sessions have ended: what follows is another one
    deliver(shard, [b.ipfix([narrow(256, 3)])], session=8)
    settle(shard)
    assert numbers(config) == Counter([1, 10, 2])
    (row,) = ledger(shard)
    assert (row["datagrams_decoded"], row["datagrams_expired"], row["datagrams_held"]) == (4, 1, 1)
    assert shard.report()["balanced"]
    assert shard.decoder.templates() == []
    settle(shard)
    let_go(shard)
    again = open_shard(config)
    assert again.decoder.templates() == []
    settle(again)
    let_go(again)
    for shard in (again, open_shard(config)):
        (row,) = ledger(shard)
        assert [row[f"datagrams_{n}"] for n in ("decoded", "expired", "held")] == [4, 2, 0]
        assert shard.report()["balanced"]
    let_go(shard)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_a_damaged_checkpoint_is_made_up_for_by_the_one_before_and_the_segments(
    tmp_path: Path, undisturbed: Undisturbed, damage: Callable[[Path], None]
) -> None:
    expected, _ = undisturbed
    for flushes in range(2, 5):
        config = config_of(tmp_path / str(flushes))
        shard = open_shard(config)
        run(shard, traffic()[:flushes])
        let_go(shard)
        damage(shard.directory / "checkpoint")
        shard = open_shard(config)
        assert (shard.directory / "checkpoint.damaged").exists()
        settle(shard)
        run(shard, traffic()[flushes:])
        assert_all_is_well(config, shard, expected)
        assert leftovers(config, shard) == []
        let_go(shard)


def test_killed_in_a_flush_with_its_checkpoint_damaged_everything_is_stored_once(
    tmp_path: Path, undisturbed: Undisturbed
) -> None:
    expected, _ = undisturbed
    for at in range(40):
        config = config_of(tmp_path / str(at))
        pid = os.fork()
        if pid == 0:
            shard = open_shard(config)
            run(shard, traffic()[:2])
            hand_over(shard, traffic()[2])
            with interrupted(at, power_off, []):
                settle(shard)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        current = Path(config.data_dir) / "shards/0/checkpoint"
        if current.samefile(current.with_suffix(".previous")):
            continue  # for a moment both names are of one file
        flip(current)
        shard = open_shard(config)
        settle(shard)
        run(shard, traffic()[3:])
        assert_all_is_well(config, shard, expected)
        let_go(shard)
        if status == 0:
            break
    assert status == 0


def test_what_the_journal_no_longer_has_is_stored_but_missing_in_the_ledger_and_that_is_counted(
    tmp_path: Path,
) -> None:
    config = config_of(tmp_path)
    shard = open_shard(config)
    for first in range(0, 400, 100):
        deliver(shard, [v5(i, 1) for i in range(first, first + 100)])
        settle(shard)
    let_go(shard)
    flip(shard.directory / "checkpoint")
    for path in (shard.directory / "journal").glob("*.block"):
        if Block.open(path)[0].end <= 400:
            path.unlink()  # as if it had been used again
    shard = open_shard(config)
    report = shard.report()
    assert report["uncounted"] == 100
    assert report["balanced"], report["imbalances"]
    deliver(shard, [v5(i, 1) for i in range(400, 500)])
    settle(shard)
    assert numbers(config) == Counter(range(500))
    assert shard.report()["balanced"]
    assert sum(row["datagrams_received"] for row in ledger(shard)) + report["uncounted"] == 500
    let_go(shard)


def lose_both_checkpoints(shard: Shard) -> None:
    flip(shard.directory / "checkpoint")
    flip(shard.directory / "checkpoint.previous")


def remove_both_checkpoints(shard: Shard) -> None:
    (shard.directory / "checkpoint").unlink()
    (shard.directory / "checkpoint.previous").unlink()


def lose_the_templates(shard: Shard) -> None:
    for path in shard.directory.glob("state-*"):
        flip(path)


def have_templates_of_another_version(shard: Shard) -> None:
    for path in shard.directory.glob("state-*"):
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "version": 0}))


def lose_the_held_datagrams(shard: Shard) -> None:
    for path in shard.directory.glob("held-*"):
        truncate(path)


@pytest.mark.parametrize(
    "lose",
    [
        lose_both_checkpoints,
        remove_both_checkpoints,
        lose_the_templates,
        have_templates_of_another_version,
        lose_the_held_datagrams,
    ],
)
def test_without_any_state_a_new_ledger_begins_and_what_is_stored_stays_stored_once(
    tmp_path: Path, lose: Callable[[Shard], None]
) -> None:
    config = config_of(tmp_path)
    shard = open_shard(config)
    run(shard, traffic()[:2])
    stored = numbers(config)
    before = shard.journal.position
    let_go(shard)
    lose(shard)
    shard = open_shard(config)
    assert shard.report()["uncounted"] == before
    assert shard.report()["balanced"]
    assert numbers(config) == stored
    run(shard, traffic()[2:])
    report = shard.report()
    assert report["balanced"], report["imbalances"]
    # what was held is lost, all else goes on
    assert numbers(config) == NUMBERS - Counter([1001, 1002, 1003])
    received = sum(row["datagrams_received"] for row in ledger(shard))
    assert received + report["uncounted"] == shard.journal.position
    let_go(shard)
    again = open_shard(config)
    assert again.report()["uncounted"] == before
    assert leftovers(config, again) == []
    let_go(again)


def test_a_deleted_journal_costs_what_was_only_there(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    shard = open_shard(config)
    deliver(shard, [v5(i, 1) for i in range(100)])
    settle(shard)
    deliver(shard, [v5(i, 1) for i in range(100, 150)])
    let_go(shard)
    shutil.rmtree(shard.directory / "journal")
    shard = open_shard(config)
    assert shard.journal.position == 100
    deliver(shard, [v5(i, 1) for i in range(150, 250)])
    settle(shard)
    assert numbers(config) == Counter([*range(100), *range(150, 250)])
    assert shard.report()["balanced"]
    # the exporter's own numbers tell
    assert [row["sequence_lost"] for row in ledger(shard)] == [50]
    let_go(shard)


def test_a_block_missing_in_the_journal_is_a_loss_with_a_name(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    shard = open_shard(config)
    deliver(shard, [v5(i, 1) for i in range(200)])
    let_go(shard)
    sorted((shard.directory / "journal").glob("*.block"))[1].unlink()
    shard = open_shard(config)
    settle(shard)
    assert numbers(config) == Counter([*range(64), *range(128, 200)])
    assert shard.report()["torn"] == 64
    assert shard.report()["balanced"]
    let_go(shard)


@pytest.mark.parametrize("make", ["flows", "counters"])
def test_a_disk_that_stays_full_stops_decoding_and_the_shard_can_be_given_up(
    tmp_path: Path, make: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    sample = b.counter_sample([b.tagged(1, bytes(88))])
    config = config_of(tmp_path)
    shard = open_shard(config)
    for i in range(300):
        payload = v5(i, 1) if make == "flows" else b.sflow([sample], sequence=i + 1)
        deliver(shard, [payload])
    with monkeypatch.context() as patch:
        patch.setattr("appliance.shard.MAX_ROWS", 100)
        patch.setattr("appliance.shard.make_room", lambda store, needed: 0)
        patch.setattr("appliance.shard.segment.stage", full)
        for _ in range(5):
            settle(shard)
        assert 100 <= shard.journal.read_position <= 100 + 64
        assert not shard.close()
    again = open_shard(config)
    settle(again)
    assert len(rows(config, make)) == 300
    assert again.report()["balanced"]
    assert again.close()


POISON = b.ipfix([], domain=666) + b"poison"
POISONER = "198.51.100.66"


@pytest.mark.parametrize(
    ("owner", "name"),
    [(TemplateDecoder, "_walk"), (TemplateDecoder, "decode"), (Decoder, "_finish")],
)
def test_a_datagram_that_breaks_the_decoder_costs_only_itself(
    tmp_path: Path, owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it breaks before, amid, or after the changes to templates and held datagrams."""
    begin, *others = traffic()
    rest: Batch = [item for batch in others for item in batch]
    calm = open_shard(config_of(tmp_path / "calm"))
    run(calm, [begin, rest])
    expected = ledger(calm)
    let_go(calm)
    original = getattr(owner, name)

    def broken(self: object, ctx: DecodeContext, *args: Any) -> Any:
        result = original(self, ctx, *args)
        poisoned = any(ctx.batch.payload(i) == POISON for i in range(len(ctx.batch)))
        if poisoned and not any("refused" in error.detail for error in ctx.errors):
            raise ZeroDivisionError
        return result

    monkeypatch.setattr(owner, name, broken)
    for position in range(len(rest) + 1):
        config = config_of(tmp_path / str(position))
        shard = open_shard(config)
        run(shard, [begin, [*rest[:position], (POISONER, [POISON]), *rest[position:]]])
        assert numbers(config) == NUMBERS
        found = {(row["exporter"], row["protocol"], row["domain"]): row for row in ledger(shard)}
        (row,) = (found.pop(key) for key in list(found) if key[0] == POISONER)
        assert found == {(row["exporter"], row["protocol"], row["domain"]): row for row in expected}
        assert row["datagrams_received"] == row["datagrams_malformed_header"] == 1
        assert shard.report()["balanced"]
        kept = list((shard.directory / "undecodable").iterdir())
        assert [path.read_bytes() for path in kept] == [POISON]
        let_go(shard)


@pytest.mark.parametrize("fail", [disk_full, input_output_error])
def test_a_call_that_fails_costs_nothing_but_time(
    tmp_path: Path, undisturbed: Undisturbed, fail: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.shard.make_room", lambda store, needed: needed)
    expected, calls = undisturbed
    for at in range(calls):
        config = config_of(tmp_path / str(at))
        shard = open_shard(config)
        for batch in traffic():
            hand_over(shard, batch)
            with interrupted(at, fail, seen := []):
                settle(shard)
            at -= len(seen)
            settle(shard)
        assert_all_is_well(config, shard, expected)
        let_go(shard)
        again = open_shard(config)
        assert_all_is_well(config, again, expected)
        assert leftovers(config, again) == []
        let_go(again)


def test_killed_after_a_call_that_failed_everything_is_stored_once(
    tmp_path: Path, undisturbed: Undisturbed
) -> None:
    expected, calls = undisturbed
    for at in range(calls):
        config = config_of(tmp_path / str(at))
        shard = open_shard(config)
        for batch in traffic():
            hand_over(shard, batch)
            with interrupted(at, input_output_error, seen := []):
                settle(shard)
            failed = 0 <= at < len(seen)
            at -= len(seen)
            if failed:
                let_go(shard)
                shard = open_shard(config)
                settle(shard)
        assert_all_is_well(config, shard, expected)
        let_go(shard)
