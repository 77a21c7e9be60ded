"""Rules and queries against the real programs: promtool, and a Prometheus that scrapes."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.monitoring.prometheus import ROLE, RULES, Prometheus, template
from tests.monitoring.queries import Query, ask, get, main, queries

RATE = "5s"
NAME = re.compile(r"\b((?:tandem|keepalived|haproxy|instance)[a-z_]*(?::[a-z_]+)*)\b(?=[\s{\[)]|$)")

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("prometheus", "promtool", "haproxy"))),
    reason="needs the packages prometheus and haproxy",
)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Prometheus(tmp_path_factory.mktemp("prometheus")) as running:
        yield running


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.name)
def test_rules_fire_when_they_must_and_only_then(rules: Path) -> None:
    checked = promtool("check", "rules", rules)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    done = promtool("test", "rules", _tests_of(rules))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.name)
@pytest.mark.parametrize("always", [True, False], ids=["always", "never"])
def test_a_rule_that_fires_always_or_never_does_not_pass(
    rules: Path, always: bool, tmp_path: Path
) -> None:
    """Each rule has a test that it fires and one that it does not: break one at a time."""
    document = yaml.safe_load(rules.read_text())
    tests = yaml.safe_load(_tests_of(rules).read_text())
    for rule in document["groups"][0]["rules"]:
        if "alert" not in rule:
            continue
        right = dict(rule)
        about = [test for test in tests["tests"] if f'"{rule["alert"]}"' in str(test)]
        narrowed = tests | {"rule_files": [rules.name], "tests": about}
        (tmp_path / "test.yml").write_text(yaml.safe_dump(narrowed))
        rule.update(expr="vector(1)" if always else "vector(1) > 1", **{"for": "0s"})
        (tmp_path / rules.name).write_text(yaml.safe_dump(document))
        rule.update(right)
        done = promtool("test", "rules", tmp_path / "test.yml")
        assert done.returncode != 0, f"{right['alert']} {right['labels']}"


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.name)
def test_rules_say_what_to_do(rules: Path) -> None:
    for rule in yaml.safe_load(rules.read_text())["groups"][0]["rules"]:
        if "alert" not in rule:
            continue
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert "for" in rule
        assert set(rule["annotations"]) == {"summary", "description"}
        who = ("$labels.instance", "$labels.node", "$labels.vip", "The nodes")
        assert any(name in rule["annotations"]["summary"] for name in who), rule["alert"]
        assert len(rule["annotations"]["description"]) > 80


def test_a_healthy_cluster_raises_no_alert(prometheus: Prometheus) -> None:
    groups = get(prometheus.url, "rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert {rule["lastError"] for rule in rules if "lastError" in rule} <= {""}
    firing = {r["name"] for r in rules if r["type"] == "alerting" and r["state"] != "inactive"}
    assert firing == set()


def test_rules_name_metrics_that_there_are(prometheus: Prometheus) -> None:
    known = set(get(prometheus.url, "label/__name__/values"))
    for path in RULES:
        for rule in yaml.safe_load(path.read_text())["groups"][0]["rules"]:
            bare = re.sub(r'"[^"]*"|\b(?:by|on) \([a-z, ]+\)', "", rule["expr"])
            names = set(NAME.findall(bare))
            assert names or "up{" in bare, rule
            assert names <= known, rule


def test_every_panel_has_data(prometheus: Prometheus) -> None:
    answers = ask(prometheus.url, queries(RATE))
    assert len(answers) > 80
    assert [(str(a.query), a.problem) for a in answers if a.problem] == []


def test_what_has_no_data_or_no_sense_is_named(prometheus: Prometheus) -> None:
    wrong = [Query("a", "b", "tandem_nothing"), Query("a", "b", "sum by (")]
    nothing, nonsense = ask(prometheus.url, wrong)
    assert nothing.problem == "no data"
    assert "parse error" in nonsense.problem


def test_the_command_says_what_it_found(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--url", prometheus.url, "--rate-interval", RATE, "--without", "haproxy_"]) == 0
    assert "0 without an answer" in capsys.readouterr().out
    assert main(["--url", prometheus.url, "--rate-interval", "1ms"]) == 1
    assert "no data" in capsys.readouterr().out


@pytest.mark.parametrize("exporter", [True, False])
def test_the_configuration_is_valid(tmp_path: Path, exporter: bool) -> None:
    for name in ("api-token", "ca.pem"):
        (tmp_path / name).write_text("x" * 24)
    text = template(
        "prometheus.yml.j2",
        monitoring_nodes={"n2": "fd77::12", "n1": "10.77.0.11"},
        monitoring_api_port=8443,
        monitoring_haproxy_port=8405,
        monitoring_keepalived_port=9165,
        monitoring_keepalived_exporter=exporter,
        inventory_hostname="monitor",
    ).replace("/etc/prometheus/tandem/", f"{tmp_path}/")
    config = tmp_path / "prometheus.yml"
    config.write_text(text.replace("/etc/prometheus/rules/", f"{ROLE}/files/rules/"))
    checked = promtool("check", "config", config)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    jobs = {job["job_name"]: job for job in yaml.safe_load(text)["scrape_configs"]}
    wanted = {"tandem-n1", "tandem-n2", "haproxy", "prometheus"}
    assert set(jobs) == wanted | ({"keepalived"} if exporter else set())
    assert jobs["tandem-n2"]["tls_config"]["server_name"] == "n2"
    assert jobs["tandem-n2"]["static_configs"] == [
        {"targets": ["[fd77::12]:8443"], "labels": {"instance": "n2"}}
    ]
    assert [group["labels"]["instance"] for group in jobs["haproxy"]["static_configs"]] == [
        "n1",
        "n2",
    ]


def _tests_of(rules: Path) -> Path:
    return Path(__file__).with_name(rules.name.replace(".rules.yml", ".test.yml"))
