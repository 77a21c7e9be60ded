from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.register import store
from api.register.store import MOST, Entry, NotWritten, Register


def put(register: Register, key: str, body: dict[str, Any] | None) -> Entry:
    return asyncio.run(register.put("token", key, body))


def merge(register: Register, entry: Entry) -> bool:
    return asyncio.run(register.merge(entry))


def test_an_entry_is_durable_changed_and_removed(tmp_path: Path) -> None:
    register = Register(tmp_path / "register", "n1", lambda: 7)
    assert put(register, "a", {"x": 1}).version == 1
    assert put(register, "a", {"x": 2}).version == 2
    put(register, "b", {"y": None})
    put(register, "b", None)
    again = Register(tmp_path / "register", "n1")
    assert [e.body for e in again.all("token")] == [{"x": 2}]
    assert again.get("token", "b") is None
    assert again.digest == register.digest
    assert put(again, "b", {"z": 0}).version == 3, "a removed entry is not forgotten"


def test_a_torn_file_costs_only_its_entry(tmp_path: Path) -> None:
    register = Register(tmp_path, "n1")
    put(register, "a", {})
    put(register, "b", {})
    file = tmp_path / "token" / "a.json"
    file.write_bytes(file.read_bytes()[:-9])
    (tmp_path / "token" / "c.json").write_bytes((tmp_path / "token" / "b.json").read_bytes())
    assert [e.key for e in Register(tmp_path, "n1").all("token")] == ["b"]


def test_what_cannot_be_written_is_not_made(tmp_path: Path) -> None:
    register = Register(tmp_path, "n1")
    (tmp_path / "token").write_text("a file where the folder should be")
    with pytest.raises(NotWritten, match="File exists"):
        put(register, "a", {})
    assert register.get("token", "a") is None
    with pytest.raises(NotWritten, match="at most"):
        put(register, "a", {"long": "x" * store.MOST_BYTES})


def test_the_last_keys_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOST, "token", 3)
    register = Register(tmp_path, "n1")
    for number in range(5):
        put(register, f"k{number}", {})
    kept = ["k2", "k3", "k4"]
    assert [e.key for e in register.all("token")] == kept
    assert [e.key for e in Register(tmp_path, "n1").all("token")] == kept
    old = Entry(kind="token", key="k0", version=9, node="n2", time_ns=0, body={})
    assert not merge(register, old), "it would be the first to go"
    assert [e.key for e in register.all("token")] == kept


def test_only_what_changes_is_heard() -> None:
    register, heard = Register(None, "n1"), list[Entry]()
    register.subscribe(heard.append)
    entry = put(Register(None, "n2"), "a", {})
    assert merge(register, entry)
    assert not merge(register, entry)
    assert heard == [entry]


CHANGE = st.tuples(
    st.integers(0, 2), st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 9))
)
TALK = st.tuples(st.integers(0, 2), st.integers(0, 2))


@given(steps=st.lists(st.one_of(CHANGE, TALK), max_size=30), order=st.permutations(range(6)))
def test_nodes_that_were_apart_agree_once_they_have_talked(steps: list[Any], order: Any) -> None:
    nodes = [Register(None, f"n{i}") for i in range(3)]

    def tell(speaker: int, hearer: int) -> None:
        for entry in nodes[speaker].every().values():
            merge(nodes[hearer], entry)

    for step in steps:
        if len(step) == 2:
            tell(*step)
        else:
            node, key, value = step
            put(nodes[node], key, None if value is None else {"value": value})
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    for _ in range(2):
        for number in order:
            tell(*pairs[number])
    assert len({register.digest for register in nodes}) == 1
    assert nodes[0].every() == nodes[1].every() == nodes[2].every()
