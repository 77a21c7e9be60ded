from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.audit import log as audit_log
from api.audit.log import AuditLog
from api.audit.record import Record, Request, follow, head_of
from api.views import AuditHead


def request(n: int = 0) -> Request:
    return Request(
        time_ns=n, caller="ci", role="operator", client="192.0.2.7", method="PUT",
        path=f"/v1/nodes/n{n}/drain", status=200, request="ab",
    )  # fmt: skip


def write(log: AuditLog, count: int = 1) -> None:
    async def all_of_them() -> None:
        for n in range(count):
            await log.write(request(n))

    asyncio.run(all_of_them())


def problem(log: AuditLog) -> str:
    return log.read(10)[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_lines_are_kept_over_a_restart_and_vouch_for_each_other(path: Path) -> None:
    write(AuditLog(path, "n1"), 3)
    again = AuditLog(path, "n1")
    write(again, 2)
    records, wrong = again.read(4)
    assert ([r.number for r in records], wrong) == ([2, 3, 4, 5], "")
    assert records[-1].path == "/v1/nodes/n1/drain"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def edit(text: bytes) -> bytes:
    return text.replace(b'"n2/drain"', b'"n9/drain"').replace(b"/n2/", b"/n9/")


CUTS: dict[str, Any] = {
    "the first line": lambda lines: lines[1:],
    "one in the middle": lambda lines: lines[:2] + lines[3:],
    "the last line": lambda lines: lines[:-1],
    "all": lambda lines: [],
    "an edit": lambda lines: [edit(line) for line in lines],
    "an edit of the last": lambda lines: [*lines[:-1], lines[-1].replace(b"200", b"403")],
    "another order": lambda lines: [lines[1], lines[0], *lines[2:]],
    "a line twice": lambda lines: [*lines[:2], *lines[1:]],
    "nonsense": lambda lines: [*lines[:2], b"nonsense", *lines[2:]],
}


@pytest.mark.parametrize("what", CUTS)
def test_what_was_cut_or_edited_shows(path: Path, what: str) -> None:
    log = AuditLog(path, "n1")
    write(log, 5)
    assert problem(log) == ""
    path.write_bytes(b"".join(line + b"\n" for line in CUTS[what](path.read_bytes().splitlines())))
    assert problem(log) != ""
    write(log)
    assert problem(log) != "", "and does not heal"


def test_a_log_that_was_removed_shows(path: Path) -> None:
    log = AuditLog(path, "n1")
    write(log, 2)
    path.unlink()
    assert "the end is not line 2" in problem(log)
    write(log)
    assert "line 3 does not follow" in problem(log)


def test_an_edit_while_nobody_looks_shows_but_for_the_last_line(path: Path) -> None:
    write(AuditLog(path, "n1"), 4)
    path.write_bytes(edit(path.read_bytes()))
    assert "line 4 does not follow" in problem(AuditLog(path, "n1"))


@settings(max_examples=30)
@given(st.data())
def test_no_single_byte_can_be_changed(data: st.DataObject) -> None:
    lines, head = [], AuditHead()
    for n in range(4):
        record = Record(**request(n).model_dump(), number=n + 1, node="n", previous=head.sha256)
        lines.append(record.line())
        head = head_of(record, record.line())
    assert follow(lines, True, head, 9)[1] == ""
    which = data.draw(st.integers(0, 3))
    at = data.draw(st.integers(0, len(lines[which]) - 1))
    new = data.draw(st.integers(0, 255).filter(lambda b: b not in (lines[which][at], 10)))
    lines[which] = lines[which][:at] + bytes([new]) + lines[which][at + 1 :]
    assert follow(lines, True, head, 9)[1] != ""


def test_files_are_bounded_and_the_chain_goes_through_them(path: Path) -> None:
    log = AuditLog(path, "n1", most_bytes=2000, files=3)
    for _ in range(10):
        write(log, 3)
        assert problem(log) == ""
    files = sorted(f.name for f in path.parent.iterdir())
    assert files == ["audit.1.jsonl", "audit.2.jsonl", "audit.jsonl"]
    assert all(f.stat().st_size <= 2000 for f in path.parent.iterdir())
    records, wrong = AuditLog(path, "n1", 2000, 3).read(3)
    assert ([r.number for r in records], wrong) == ([28, 29, 30], "")
    (path.parent / "audit.1.jsonl").unlink()
    assert problem(log) != ""


def test_a_torn_line_goes_and_the_chain_goes_on(path: Path) -> None:
    write(AuditLog(path, "n1"), 3)
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    log = AuditLog(path, "n1")
    write(log)
    assert ([r.number for r in log.read(9)[0]], problem(log)) == ([1, 2, 3], "")


def test_what_cannot_be_written_is_counted_and_leaves_no_half_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(path, "n1")
    write(log)
    real = os.write

    def full(handle: int, data: bytes) -> int:
        real(handle, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(audit_log.os, "write", full)
    write(log, 2)
    monkeypatch.undo()
    log.passed_over()
    write(log)
    records, wrong = log.read(9)
    assert ([(r.number, r.unwritten) for r in records], wrong) == ([(1, 0), (2, 3)], "")


def test_a_disk_that_hangs_delays_an_answer_for_a_moment_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    monkeypatch.setattr(audit_log, "_WRITE_SECONDS", 0.05)
    monkeypatch.setattr(audit_log, "_WAITING", 2)
    log = AuditLog(path, "n1")
    monkeypatch.setattr(AuditLog, "_rotate", lambda *_: go.wait(5))

    async def three() -> None:
        for n in range(3):
            await log.write(request(n))
        go.set()

    asyncio.run(three())
    log.close()
    assert [r.number for r in AuditLog(path, "n1").read(9)[0]] == [1, 2]
    assert log._unwritten == 1


def test_without_a_place_nothing_is_kept() -> None:
    log = AuditLog(None, "n1")
    write(log)
    assert (log.head, log.read(9)) == (None, ([], ""))


def test_lines_that_come_at_once_are_one_chain(path: Path) -> None:
    log = AuditLog(path, "n1", most_bytes=8000)

    async def at_once() -> None:
        await asyncio.gather(*(log.write(request(n)) for n in range(60)))

    asyncio.run(at_once())
    records, wrong = log.read(60)
    assert (len(records), wrong) == (60, "")
    assert sorted(r.time_ns for r in records) == list(range(60))
