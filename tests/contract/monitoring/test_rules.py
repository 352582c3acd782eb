"""The rules do what their unit tests say, and whoever is woken by one finds it in the docs."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
RULES = ROOT / "manifests/alerts/capstan.yaml"
TESTS = Path(__file__).with_name("rules.yaml")
ALERTS = [
    rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]


def promtool(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    assert program, "promtool is missing: scripts/bootstrap test provides it"
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.tools
def test_promtool_is_content_with_the_rules():
    done = promtool("check", "rules", "--lint-fatal", RULES.name, folder=RULES.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.tools
def test_every_alert_fires_when_it_should(tmp_path):
    shutil.copy(RULES, tmp_path)
    shutil.copy(TESTS, tmp_path)
    done = promtool("test", "rules", TESTS.name, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = (tmp_path / RULES.name).read_text()
    (tmp_path / RULES.name).write_text(rules.replace("> 0.95", "> 0.99"))
    assert promtool("test", "rules", TESTS.name, folder=tmp_path).returncode == 1, (
        "it is content with anything"
    )


def test_every_alert_has_a_test_in_which_it_fires():
    fired = {
        case["alertname"]
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in ALERTS}


def test_every_alert_says_what_is_wrong_and_where_to_read_on():
    for rule in ALERTS:
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["runbook_url"].endswith("docs/operations.md#alerts")


def test_the_docs_have_a_row_for_each_alert_and_for_nothing_else():
    text = (ROOT / "docs/operations.md").read_text()
    section = text.split("\n## Alerts\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [rule["alert"] for rule in ALERTS]
