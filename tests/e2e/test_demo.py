"""`make demo`, as the README says it, on the cluster the other tests use; what its Prometheus saw of it."""

import json
import re
import subprocess
import sys
import time
from typing import Any

import pytest
import yaml
from capstan_demo.deploy import ROOT
from capstan_demo.digits import NAME, NAMESPACE
from capstan_demo.kube import until
from capstan_demo.prometheus import Prometheus

sys.path.insert(0, str(ROOT / "scripts"))
from dashboards.expressions import asked, expressions

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

#: Metrics that no part of the demo has a reason to export.
NOT_IN_THE_DEMO: dict[str, str] = {}


@pytest.fixture(scope="module")
def told(installed) -> str:
    """What the demo prints."""
    done = subprocess.run(
        [sys.executable, "-m", "capstan_demo"], capture_output=True, text=True, timeout=850, check=False
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    return done.stdout


class Seen:
    """What Prometheus answers for the time of the demo."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus
        self._empty: dict[str, bool] = {}

    def over_time(self, expression: str) -> list[Any]:
        now = time.time()
        when = {"start": str(now - 600), "end": str(now), "step": "5"}
        result: list[Any] = self._prometheus.get("query_range", query=expression, **when)["result"]
        return result

    def lacks(self, expression: str) -> set[str]:
        """The metrics of an expression of which there is nothing."""
        names = set(re.findall(r"\b(?:capstan|nv|process)[_:][\w:]+", expression))
        assert names, expression
        for name in names - self._empty.keys():
            self._empty[name] = not self.over_time(f"count({name})")
        return {name for name in names if self._empty[name]}


@pytest.fixture(scope="module")
def seen(told, kube) -> Seen:
    """Prometheus, once it has scraped the server twice, so that there are rates."""
    prometheus = Prometheus(kube)
    there = f'count_over_time(nv_inference_count{{namespace="{NAMESPACE}"}}[1m]) > 2'
    until(lambda: bool(prometheus.query(there)), seconds=60, last=lambda: there)
    until(lambda: bool(prometheus.query("capstan:inference_requests:rate5m")), seconds=60)
    return Seen(prometheus)


def test_the_demo_tells_its_whole_story(told) -> None:
    for word in ("held-out digits", "HTTP", "gRPC", "p50", "p99", "requests answered", "What to try next"):
        assert word in told


@pytest.mark.parametrize("name", ["capstan-fleet", "capstan-training-job", "capstan-inference-service"])
def test_every_panel_shows_something_of_the_demo(seen, name) -> None:
    dashboard = json.loads((ROOT / "manifests/dashboards" / f"{name}.json").read_text())
    empty = []
    for title, expression in expressions(dashboard):
        given = asked(expression, NAMESPACE, NAME)
        if not seen.over_time(given) and not seen.lacks(given) & NOT_IN_THE_DEMO.keys():
            empty.append((title, given, seen.lacks(given)))
    assert empty == []


def test_every_rule_has_what_it_looks_at(seen) -> None:
    rules = yaml.safe_load((ROOT / "manifests/alerts/capstan.yaml").read_text())
    empty = []
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        found = seen.over_time(rule["expr"])
        lacks = seen.lacks(rule["expr"]) - NOT_IN_THE_DEMO.keys()
        if lacks or ("record" in rule and not found):
            empty.append((rule.get("alert") or rule["record"], lacks))
    assert empty == []


def test_prometheus_has_loaded_the_rules_and_none_fails(seen, kube) -> None:
    groups = Prometheus(kube).get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 15
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] == "err"] == []
