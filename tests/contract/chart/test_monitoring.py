"""What the chart gives to a Prometheus and a Grafana that are there: monitors, rules, dashboards."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from capstan_operator.core import labels
from capstan_operator.core.runtimes import capstan
from capstan_operator.core.training import children

from .conftest import ROOT, only

pytestmark = pytest.mark.tools

API = ("--api-versions", "monitoring.coreos.com/v1")
MONITORING = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
MODULE = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
SUM = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="


def kinds(manifests):
    return {manifest["kind"] for manifest in manifests} & MONITORING


@pytest.mark.parametrize(
    ("enabled", "api", "there"),
    [
        ("auto", False, False),
        ("auto", True, True),
        (True, False, True),
        (False, True, False),
    ],
)
def test_monitors_are_there_when_their_api_is_or_when_told(render, enabled, api, there):
    found = kinds(render(*(API if api else ()), monitoring={"enabled": enabled}))
    assert found == (MONITORING if there else set())


@pytest.fixture(scope="session")
def monitoring_schemas(tmp_path_factory) -> str:
    """Where kubeconform finds the schemas of the prometheus-operator's kinds, from its own Go module."""
    download = ["go", "mod", "download", "-json", MODULE]
    done = subprocess.run(download, cwd="/", check=True, capture_output=True, text=True)
    module, folder = json.loads(done.stdout), tmp_path_factory.mktemp("monitoring")
    assert module["Sum"] == SUM
    for path in (Path(module["Dir"]) / "example/prometheus-operator-crd").glob("*.yaml"):
        crd = yaml.safe_load(path.read_text().replace("- =\n", '- "="\n'))  # YAML 1.1 has a type for it
        for version in crd["spec"]["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            closed(schema)
            name = f"{crd['spec']['names']['kind'].lower()}-monitoring-{version['name']}.json"
            (folder / name).write_text(json.dumps(schema))
    return f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"


def closed(schema):
    """Refuse fields that a schema does not name, as the API server would drop them."""
    if isinstance(schema, dict):
        if (
            isinstance(schema.get("properties"), dict)
            and "x-kubernetes-preserve-unknown-fields" not in schema
        ):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            closed(value)
    elif isinstance(schema, list):
        for value in schema:
            closed(value)


@pytest.mark.parametrize(
    "values", [{}, {"watchNamespaces": ["a", "b"], "monitoring": {"labels": {"release": "p"}}}]
)
def test_kubeconform_is_content_with_the_monitors(tool, monitoring_schemas, render, values):
    manifests = [m for m in render(*API, **values) if m["kind"] in MONITORING]
    for manifest in manifests:
        manifest["metadata"].setdefault("annotations", {})
    command = [tool("kubeconform"), "-strict", "-summary", "-schema-location", monitoring_schemas]

    def judged(documents):
        return subprocess.run(
            command, input=yaml.safe_dump_all(documents), capture_output=True, text=True, check=False
        )

    done = judged(manifests)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Valid: 4" in done.stdout
    manifests[0]["spec"]["selectors"] = {}
    assert judged(manifests).returncode == 1, "it is content with anything"


def test_monitors_select_what_is_rendered(render):
    manifests = render(
        *API, watchNamespaces=["a"], monitoring={"labels": {"release": "p"}, "interval": "10s"}
    )
    service, monitor = only(manifests, "Service"), only(manifests, "ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    assert endpoint["interval"] == "10s"
    pods = {
        m["spec"]["selector"]["matchLabels"]["capstan.dev/kind"]: m
        for m in manifests
        if m["kind"] == "PodMonitor"
    }
    for kind, port in (
        ("TrainingJob", {"metrics": children.METRICS}),
        ("InferenceService", {"metrics": capstan.METRICS}),
    ):
        spec = pods[kind]["spec"]
        assert spec["namespaceSelector"] == {"matchNames": ["a"]}
        assert spec["selector"]["matchLabels"].items() <= labels.standard(kind, "x", "worker").items()
        assert {endpoint["port"] for endpoint in spec["podMetricsEndpoints"]} == set(port)
    assert all(m["metadata"]["labels"]["release"] == "p" for m in manifests if m["kind"] in MONITORING)


def test_rules_and_dashboards_are_shipped_as_they_are(render):
    rules = only(render(*API), "PrometheusRule")["spec"]
    assert rules == yaml.safe_load((ROOT / "manifests/alerts/capstan.yaml").read_text())
    shipped = [
        m
        for m in render(
            dashboards={"enabled": True, "namespace": "grafana", "annotations": {"grafana_folder": "ML"}}
        )
        if m["kind"] == "ConfigMap"
    ]
    assert len(shipped) == 3
    for manifest in shipped:
        assert manifest["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert manifest["metadata"]["annotations"] == {"grafana_folder": "ML"}
        assert manifest["metadata"]["namespace"] == "grafana"
        ((name, text),) = manifest["data"].items()
        assert json.loads(text) == json.loads((ROOT / "manifests/dashboards" / name).read_text())
    assert not [m for m in render() if m["kind"] == "ConfigMap"]
