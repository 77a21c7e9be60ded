"""The pki role makes real certificates in a folder, and openssl judges them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.roles.role_runs import Outcome, run_role

pytestmark = pytest.mark.timeout(300)
TASKS = ["preflight", "configure"]


def run_pki(directory: Path, check: bool = False, **variables: Any) -> Outcome:
    given = {
        "pki_ca_passphrase": "correct horse battery",
        "pki_directory": str(directory / "pki"),
        "pki_node_directory": str(directory / "node"),
        "pki_owner": directory.owner(),
        "pki_group": directory.group(),
        "pki_exporters": ["r1"],
        "tandem_cluster_name": "lab",
        "tandem_vips": [{"name": "v1", "vrid": 51, "addresses": ["10.77.0.101", "fd77::101"]}],
        **variables,
    }
    hosts = {"n1": {"tandem_address": "10.77.0.11"}}
    return run_role(directory, "pki", TASKS, hosts, given, check=check)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    outcome = run_pki(directory, pki_days=100)
    assert outcome.failed == 0, outcome.output
    return directory


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy", symlinks=True))


def openssl(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True, timeout=30)


def trusted(ca: Path, certificate: Path, purpose: str) -> bool:
    args = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", ca, certificate]
    return openssl(*args).returncode == 0


def contents(directory: Path) -> dict[str, bytes]:
    files = [p for part in ("node", "pki") for p in (directory / part).rglob("*") if p.is_file()]
    return {str(p.relative_to(directory)): p.read_bytes() for p in files}


def changed_files(before: dict[str, bytes], directory: Path) -> set[str]:
    now = contents(directory)
    return {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}


def test_certificates_serve_their_purpose_and_no_other(made: Path):
    node, pki = made / "node", made / "pki"
    assert trusted(node / "ca.pem", node / "node.pem", "sslserver")
    assert trusted(node / "ca.pem", node / "node.pem", "sslclient")
    assert trusted(node / "ca.pem", node / "api.pem", "sslserver")
    assert not trusted(node / "ca.pem", node / "api.pem", "sslclient")
    assert trusted(node / "exporters-ca.pem", pki / "exporters/r1.pem", "sslclient")
    assert not trusted(node / "exporters-ca.pem", pki / "exporters/r1.pem", "sslserver")
    assert not trusted(node / "ca.pem", pki / "exporters/r1.pem", "sslclient")
    assert not trusted(node / "exporters-ca.pem", node / "node.pem", "sslclient")


def test_names_of_the_certificates(made: Path):
    for host in ("n1", "lab"):
        assert (
            "does match"
            in openssl("x509", "-noout", "-checkhost", host, "-in", made / "node/api.pem").stdout
        )
    for address in ("10.77.0.11", "10.77.0.101", "fd77::101"):
        assert (
            "does match"
            in openssl("x509", "-noout", "-checkip", address, "-in", made / "node/api.pem").stdout
        )
    answer = openssl("x509", "-noout", "-checkip", "10.77.0.101", "-in", made / "node/node.pem")
    assert "does NOT match" in answer.stdout


def test_keys_are_kept_from_others_and_the_authorities_are_encrypted(made: Path):
    modes = {p.name: p.stat().st_mode & 0o777 for p in (made / "node").iterdir()}
    assert set(modes) == {
        "ca.pem",
        "exporters-ca.pem",
        "node.pem",
        "node.key",
        "api.pem",
        "api.key",
    }
    assert set(modes.values()) == {0o640}
    for name in ("cluster-ca.key", "exporters-ca.key"):
        key = made / "pki" / name
        assert key.stat().st_mode & 0o777 == 0o600
        assert "ENCRYPTED" in key.read_text()
    assert (made / "pki/exporters/r1.key").stat().st_mode & 0o777 == 0o600


def test_check_mode_of_a_first_run_succeeds_and_makes_nothing(tmp_path: Path):
    outcome = run_pki(tmp_path, check=True)
    assert outcome.failed == 0, outcome.output
    assert contents(tmp_path) == {}


def test_a_second_run_changes_nothing(copy: Path):
    before = contents(copy)
    outcome = run_pki(copy, pki_days=100)
    assert (outcome.failed, outcome.changed) == (0, 0), outcome.output
    assert changed_files(before, copy) == set()


def test_a_new_vip_renews_the_api_certificate_only(copy: Path):
    before = contents(copy)
    vips = [{"name": "v2", "vrid": 52, "addresses": ["10.77.0.102"]}]
    assert run_pki(copy, tandem_vips=vips).failed == 0
    assert changed_files(before, copy) == {"node/api.pem"}


def test_leaves_are_renewed_before_they_expire_with_their_keys(copy: Path):
    before = contents(copy)
    assert run_pki(copy, pki_renew_days=200, pki_days=365).failed == 0
    leaves = {"node/node.pem", "node/api.pem", "pki/exporters/r1.pem"}
    assert changed_files(before, copy) == leaves


def test_rotation_replaces_keys_but_no_authority(copy: Path):
    before = contents(copy)
    assert run_pki(copy, pki_rotate=True).failed == 0
    leaves = {"node/node", "node/api", "pki/exporters/r1"}
    assert changed_files(before, copy) == {f"{x}.{y}" for x in leaves for y in ("key", "pem")}
    assert trusted(copy / "node/ca.pem", copy / "node/node.pem", "sslclient")


def test_a_wrong_passphrase_fails_and_replaces_no_authority(copy: Path):
    before = contents(copy)
    assert run_pki(copy, pki_ca_passphrase="another long passphrase").failed == 1
    assert changed_files(before, copy) == set()


def test_a_short_passphrase_is_refused(tmp_path: Path):
    outcome = run_pki(tmp_path, pki_ca_passphrase="hunter2")
    assert outcome.failed == 1
    assert "hunter2" not in outcome.output
    assert contents(tmp_path) == {}


def test_a_lost_key_of_an_authority_is_not_made_anew(copy: Path):
    (copy / "pki/cluster-ca.key").unlink()
    outcome = run_pki(copy)
    assert outcome.failed == 1
    assert "restore the key" in outcome.output
    assert not (copy / "pki/cluster-ca.key").exists()


def test_a_new_authority_is_taken_over_while_the_old_one_is_trusted(copy: Path):
    old = Path(shutil.move(copy / "pki/cluster-ca.pem", copy / "old.pem"))
    (copy / "pki/cluster-ca.key").unlink()
    leaf = shutil.copy(copy / "node/node.pem", copy / "leaf.pem")
    outcome = run_pki(copy, pki_also_trusted={"cluster": [str(old)], "exporters": []})
    assert outcome.failed == 0, outcome.output
    assert trusted(copy / "node/ca.pem", Path(leaf), "sslclient")
    assert trusted(copy / "node/ca.pem", copy / "node/node.pem", "sslclient")
    assert not trusted(old, copy / "node/node.pem", "sslclient")
