from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from api.access import _network
from api.app import create_app
from api.roles import OPEN
from appliance.config import Config

TOKEN = "tandem_of-the-tests"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("api")
    (folder / "tokens").write_text(sha256(TOKEN.encode()).hexdigest())
    api = {"token_file": folder / "tokens", "runtime_dir": folder / "run"}
    config: Any = Config.model_validate({"data_dir": folder, "api": api})
    with TestClient(create_app(config), raise_server_exceptions=False) as client:
        yield client


METHODS = st.sampled_from(["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE"])
PATHS = st.one_of(
    st.sampled_from(["/v1/node", "/v1/tokens", "/v1/audit", "/metrics", "/openapi.json"]),
    st.text("/v1nodetkslivz.%2F;", min_size=1).map(lambda text: f"/{text}"),
)
CREDENTIALS = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"Bearer", b"Bearer ", b"Basic " + TOKEN.encode(), TOKEN.encode()]),
    st.binary(max_size=20).map(lambda tail: b"Bearer " + TOKEN.encode() + b"x" + tail),
).filter(lambda value: not set(value) & {0, 10, 13})


@given(method=METHODS, path=PATHS, credentials=CREDENTIALS)
def test_nothing_but_a_good_token_lets_in(
    client: TestClient, method: str, path: str, credentials: bytes
) -> None:
    headers = {b"Authorization": credentials, b"Tandem-Caller": b'{"name":"x","role":"admin"}'}
    answer = client.request(method, f"http://testserver{path}", headers=headers)
    assert answer.status_code in (401, 429) or answer.url.path in OPEN


@pytest.mark.parametrize("value", [f"Bearer {TOKEN}", f"bearer  {TOKEN} ", f"BEARER {TOKEN}"])
def test_a_good_token_does(client: TestClient, value: str) -> None:
    answer = client.get("/v1/node", headers={"Authorization": value})
    assert answer.status_code == 200
    assert len(answer.headers["x-request-id"]) == 16


def test_an_error_within_is_answered_with_the_same_headers(client: TestClient) -> None:
    app: Any = client.app
    watcher = app.state.observer.watcher
    snapshot, watcher.snapshot = watcher.snapshot, None
    answer = client.get("/v1/node", headers={"Authorization": f"Bearer {TOKEN}"})
    watcher.snapshot = snapshot
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert len(answer.headers["x-request-id"]) == 16


def test_one_client_is_an_ipv4_address_or_a_64() -> None:
    assert _network("192.0.2.1") == _network("::ffff:192.0.2.1") == "192.0.2.1"
    assert _network("2001:db8::1") == _network("2001:db8::ffff:2") != _network("2001:db8:0:1::1")
    assert _network("fe80::1%eth0") == _network("fe80::2")
    assert _network("testclient") == "testclient"
