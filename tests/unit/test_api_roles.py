from __future__ import annotations

import pytest

from api.roles import OPEN, needed


@pytest.mark.parametrize("path", sorted(OPEN))
def test_only_reading_health_checks_needs_no_role(path: str) -> None:
    assert needed("GET", path) is needed("HEAD", path) is needed("OPTIONS", path) is None
    assert needed("POST", path) == "operator"
    assert needed("GET", f"{path}/") == needed("GET", f"/{path}") == "viewer"


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/v1/cluster", "viewer"),
        ("HEAD", "/anything", "viewer"),
        ("PUT", "/v1/nodes/n1/drain", "operator"),
        ("POST", "/v1/switchovers", "operator"),
        ("PATCH", "/nothing", "operator"),
        ("GET", "/v1/config", "viewer"),
        ("PATCH", "/v1/config", "admin"),
        ("POST", "/v1/config/versions", "admin"),
        ("GET", "/v1/tokens", "admin"),
        # so nobody can make a token that may more than their own
        ("POST", "/v1/tokens", "admin"),
        ("GET", "/v1/tokens/", "admin"),
        ("DELETE", "/v1/tokens/x", "admin"),
        ("OPTIONS", "/v1/audit", "admin"),
        ("GET", "/v1/tokensx", "viewer"),
        ("PUT", "/v1/register/token/x", "admin"),
        ("BREW", "/v1/cluster", "admin"),
        ("get", "/livez", "admin"),
        ("CONNECT", "", "admin"),
    ],
)
def test_the_role_of_a_request(method: str, path: str, role: str) -> None:
    assert needed(method, path) == role
