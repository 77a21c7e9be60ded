"""Inventories that cannot work are refused before anything changes, with a sentence that helps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.roles.role_runs import Outcome, run_role

VIP1 = {"name": "v1", "vrid": 51, "addresses": ["10.77.0.101", "fd77::101"]}
VIP2 = {"name": "v2", "vrid": 52, "addresses": ["10.77.0.102", "fd77::102"]}
NODES = {"n1": {"tandem_address": "10.77.0.11"}, "n2": {"tandem_address": "10.77.0.12"}}
GOOD: dict[str, Any] = {
    "tandem_cluster_name": "lab",
    "tandem_interface": "host0",
    "tandem_network": "10.77.0.0/24",
    "tandem_vips": [VIP1, VIP2],
    "tandem_profile": "default",
    "tandem_vmac": True,
    "api_token": "a" * 24,
    "pki_ca_passphrase": "b" * 16,
}


def check(folder: Path, role: str, nodes: dict[str, Any] = NODES, **other: Any) -> Outcome:
    given = {name: value for name, value in (GOOD | other).items() if value is not None}
    return run_role(folder, role, ["preflight"], nodes, given | {"pki_directory": str(folder)})


@pytest.mark.parametrize("role", ["keepalived", "api", "pki"])
def test_a_good_inventory_passes(tmp_path: Path, role: str) -> None:
    outcome = check(tmp_path, role)
    assert (outcome.failed, outcome.changed) == (0, 0), outcome.output


@pytest.mark.parametrize(
    ("role", "wrong", "says"),
    [
        ("keepalived", {"nodes": {"n1": NODES["n1"]}}, "a VIP needs two .* add a node"),
        (
            "keepalived",
            {"tandem_vips": [VIP1, VIP2 | {"vrid": 51}]},
            "same name, vrid or address .* 51, 51.* give each its own",
        ),
        (
            "keepalived",
            {"tandem_vips": [VIP1, VIP2 | {"addresses": ["10.99.0.102"]}]},
            "VIP v2 has the address 10.99.0.102, which is outside 10.77.0.0/24",
        ),
        (
            "keepalived",
            {"tandem_vips": [VIP1 | {"addresses": ["10.77.0.12"]}]},
            "10.77.0.12 is a node's own address and cannot be a VIP",
        ),
        (
            "keepalived",
            {"tandem_vips": [VIP1 | {"addresses": ["10.77.0.101/24"]}]},
            "VIP v1 cannot be used: .* without prefix length",
        ),
        ("keepalived", {"tandem_vips": [VIP1 | {"vrid": 256}]}, "vrid .256. is 1 to 255"),
        ("keepalived", {"tandem_vips": []}, "tandem_vips is empty"),
        (
            "keepalived",
            {"tandem_network": "192.0.2.0/24", "tandem_vips": [VIP1 | {"addresses": ["fd77::1"]}]},
            "n1 has tandem_address 10.77.0.11, outside tandem_network 192.0.2.0/24",
        ),
        ("api", {"api_token": None}, "api_token is missing: put one into the vault"),
        ("api", {"api_token": "short"}, "api_token is shorter than 24 characters"),
        (
            "pki",
            {"pki_ca_passphrase": None},
            "pki_ca_passphrase is missing: put one into the vault",
        ),
        ("pki", {"pki_ca_passphrase": "short"}, "pki_ca_passphrase is shorter than 16 characters"),
    ],
)
def test_a_wrong_inventory_is_refused_with_what_to_do(
    tmp_path: Path, role: str, wrong: dict[str, Any], says: str
) -> None:
    outcome = check(tmp_path, role, **wrong)
    assert outcome.failed == 1
    assert re.search(says, outcome.output), outcome.output
