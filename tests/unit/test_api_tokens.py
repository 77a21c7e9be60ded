from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.caller import Caller
from api.problems import Problem
from api.register.store import MOST, Register
from api.tokens import routes
from api.tokens.known import Expired, Tokens
from api.tokens.record import TokenRecord, digest_of, hide_tokens, new_key, new_token
from appliance.config import Api, Config


def put(register: Register, key: str, body: dict[str, Any] | None) -> None:
    asyncio.run(register.put("token", key, body))


def record(token: str, **changes: Any) -> dict[str, Any]:
    fields = {"name": "ci", "role": "operator", "sha256": digest_of(token), "created_by": "x",
              "created_ns": 1}  # fmt: skip
    return TokenRecord(**fields | changes).model_dump()


def test_tokens_follow_the_register_and_expire() -> None:
    now = 100
    register = Register(None, "n1")
    tokens = Tokens(Api(), clock=lambda: now)
    tokens.follow(register)
    token = new_token()
    assert tokens.find(digest_of(token)) is None
    put(register, "a", record(token, expires_ns=200))
    put(register, "b", record(new_token(), name="other", role="viewer"))
    assert tokens.find(digest_of(token)) == Caller("ci", "operator")
    now = 200
    with pytest.raises(Expired, match="ci has expired: it was good until 1970-01-01 00:00:00 UTC"):
        tokens.find(digest_of(token))
    put(register, "a", None)
    assert tokens.find(digest_of(token)) is None


def test_an_entry_that_is_no_token_is_good_for_nothing(caplog: pytest.LogCaptureFixture) -> None:
    register = Register(None, "n1")
    tokens = Tokens(Api())
    tokens.follow(register)
    put(register, "a", {"name": "x", "role": "root", "sha256": digest_of("t"), "created_ns": 1})
    put(register, "b", record("good"))
    assert tokens.find(digest_of("t")) is None
    assert tokens.find(digest_of("good")) is not None
    assert "the token a is none" in caplog.text


def test_the_keys_of_newer_tokens_come_later() -> None:
    keys = [new_key(second * 10**9) for second in (0, 1, 59, 60, 10**9, 2 * 10**9)]
    assert keys == sorted(keys)
    assert len({new_token() for _ in range(100)}) == 100


def test_no_good_token_is_dropped_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOST, "token", 3)
    observed: Any = SimpleNamespace(register=Register(None, "n1"))
    for key in ("a", "b", "c"):
        routes._refuse_another(observed, key)
        put(observed.register, key, record(key, name=key))
    put(observed.register, "b", None)
    with pytest.raises(Problem, match="the oldest token, a, would have to go"):
        routes._refuse_another(observed, "d")
    put(observed.register, "a", None)
    routes._refuse_another(observed, "d")
    put(observed.register, "d", record("d", name="d"))
    with pytest.raises(Problem, match="there is a token 'd'"):
        routes._refuse_another(observed, "d")
    assert [entry.key for entry in observed.register.all("token")] == ["c", "d"]


def test_what_looks_like_a_token_is_hidden() -> None:
    assert hide_tokens(f"/v1/tokens/{new_token()}?x=1") == "/v1/tokens/tandem_…?x=1"


def test_a_node_without_a_cluster_refuses_to_make_tokens(tmp_path: Path) -> None:
    with TestClient(create_app(Config(data_dir=tmp_path))) as client:
        answer = client.post("/v1/tokens", json={"name": "ci", "role": "viewer"})
        assert (answer.status_code, "no [cluster]" in answer.json()["detail"]) == (409, True)
        assert client.get("/v1/tokens").json() == {"tokens": []}
        (state,) = client.get("/v1/audit").json()["nodes"]
        assert (state["whole"], "no [cluster]" in state["problem"]) == (None, True)
