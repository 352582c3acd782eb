"""The chart: sound by the tools' judgement, strict about its values, and fitting the operator."""

import shutil
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
import yaml
from capstan_operator.shell.options import options, parser

from .conftest import CHART, ROOT, objects, only

pytestmark = pytest.mark.tools

VARIANTS = {
    "defaults": {},
    "everything": {
        "image": {"registry": "registry.example.com:5000/ml", "tag": "1.2.3", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "pull"}],
        "crds": {"enabled": False},
        "watchNamespaces": ["team-a", "team-b"],
        "fetch": {"allow": ["pvc", "https://*.example.com:8443"]},
        "networkPolicies": False,
        "progress": {"enabled": True},
        "logLevel": "debug",
        "logFormat": "text",
        "workers": 16,
        "serviceAccount": {"create": False, "name": "mine"},
        "podAnnotations": {"prometheus.io/scrape": "true"},
        "podLabels": {"team": "ml"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "infra", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "infrastructure",
        "replicas": 3,
        "leaseDurationSeconds": 30,
        "nameOverride": "cap",
        "fullnameOverride": "capstan-two",
    },
}


@pytest.fixture(params=VARIANTS)
def values(request):
    return VARIANTS[request.param]


def test_helm_lint_is_content(helm, values):
    done = helm("lint", "--strict", CHART, values=values)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubeconform_is_content(tool, schemas, text, values):
    command = [tool("kubeconform"), "-strict", "-summary", "-schema-location", schemas]
    done = subprocess.run(command, input=text(**values), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Skipped: 0" in done.stdout


def test_kubeconform_would_not_be_content_with_anything(tool, schemas, text):
    command = [tool("kubeconform"), "-strict", "-schema-location", schemas]
    broken = text().replace("enableServiceLinks: false", "enableServiceLink: false")
    assert subprocess.run(command, input=broken, capture_output=True, text=True, check=False).returncode == 1


def test_kube_score_finds_nothing_critical(tool, text, values):
    command = [tool("kube-score"), "score", "--output-format", "ci", "-"]
    done = subprocess.run(command, input=text(**values), capture_output=True, text=True, check=False)
    assert "[OK]" in done.stdout
    assert [line for line in done.stdout.splitlines() if "[CRITICAL]" in line] == []


BAD = [
    ({"replicas": 0}, "replicas"),
    ({"leaseDurationSeconds": 1}, "leaseDurationSeconds"),
    ({"image": {"tagg": "x"}}, "tagg"),
    ({"image": {"registry": ""}}, "registry"),
    ({"image": {"registry": "https://ghcr.io/x"}}, "registry"),
    ({"image": {"tag": 1.2}}, "tag"),
    ({"image": {"operator": "Not A Reference"}}, "operator"),
    ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"imagePullSecrets": ["pull"]}, "imagePullSecrets"),
    ({"crds": {"enabled": "yes"}}, "enabled"),
    ({"crds": {"install": True}}, "install"),
    ({"watchNamespaces": "team-a"}, "watchNamespaces"),
    ({"watchNamespaces": ["Team_A"]}, "watchNamespaces"),
    ({"watchNamespaces": ["a", "a"]}, "watchNamespaces"),
    ({"fetch": {"allow": "s3"}}, "allow"),
    ({"fetch": {"allow": ["https://a b"]}}, "allow"),
    ({"networkPolicies": "off"}, "networkPolicies"),
    ({"progress": {"enabled": "yes"}}, "enabled"),
    ({"logLevel": "verbose"}, "logLevel"),
    ({"logFormat": "xml"}, "logFormat"),
    ({"workers": 0}, "workers"),
    ({"workers": "many"}, "workers"),
    ({"serviceAccount": {"create": False}}, "serviceAccount"),
    ({"resources": {"limit": {}}}, "limit"),
    ({"resources": {"limits": {"memory": "lots"}}}, "memory"),
    ({"nodeSelector": {"a": 1}}, "nodeSelector"),
    ({"monitoring": {"enabled": "yes"}}, "enabled"),
    ({"monitoring": {"interval": "often"}}, "interval"),
    ({"dashboards": {"labels": {"a": 1}}}, "labels"),
    ({"tolerations": [{"operator": "In"}]}, "tolerations"),
    ({"affinity": {"nodeAfinity": {}}}, "nodeAfinity"),
    ({"fullnameOverride": "Capstan"}, "fullnameOverride"),
    ({"fullnameOverride": "c" * 41}, "fullnameOverride"),
]


@pytest.mark.parametrize(("wrong", "named"), BAD, ids=[str(wrong) for wrong, _ in BAD])
def test_wrong_values_are_refused_by_name(helm, wrong, named):
    done = helm("template", "capstan", CHART, values=wrong)
    assert done.returncode != 0
    assert named in done.stderr


@pytest.mark.parametrize(
    ("image", "operator", "agent", "serving"),
    [
        ({}, "ghcr.io/capstan-dev/operator:0.2.0", "ghcr.io/capstan-dev/agent:0.2.0", None),
        ({"registry": "reg:5000/a", "tag": "t"}, "reg:5000/a/operator:t", "reg:5000/a/agent:t", None),
        (
            {
                "operator": "localhost/capstan/operator:dev-0123456789ab",
                "serving": "other/serving@sha256:" + "0" * 64,
            },
            "localhost/capstan/operator:dev-0123456789ab",
            "ghcr.io/capstan-dev/agent:0.2.0",
            "other/serving@sha256:" + "0" * 64,
        ),
    ],
)
def test_images(render, image, operator, agent, serving):
    (container,) = only(render(image=image), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == operator
    parsed = options(parser({}).parse_args(container["args"]))
    assert parsed.agent_image == agent
    assert serving in (None, parsed.serving_image)


def test_the_operator_understands_its_arguments(render):
    manifests = render(**VARIANTS["everything"])
    (container,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    parsed = options(parser({}).parse_args(container["args"]))
    assert parsed.namespaces == ("team-a", "team-b")
    assert parsed.fetch_allow == ("pvc", "https://*.example.com:8443")
    assert not parsed.network_policies
    assert (parsed.workers, parsed.log_level, parsed.log_format) == (16, "debug", "text")
    assert (parsed.leader_elect, parsed.lease_name, parsed.lease_duration) == (
        True,
        "capstan-two-operator",
        30,
    )
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {port["name"]: port["port"] for port in only(manifests, "Service")["spec"]["ports"]}
    assert ports == {"metrics": parsed.metrics_port, "reports": urlsplit(parsed.reports_url).port}


def test_reports_of_progress_reach_the_operator(render):
    """By the Service's name, through the policy, with the rights that it takes; or not at all."""
    manifests = render()
    (container,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    parsed = options(parser({}).parse_args(container["args"]))
    service = only(manifests, "Service")["metadata"]
    assert urlsplit(parsed.reports_url).hostname == f"{service['name']}.{service['namespace']}.svc"
    (rule,) = only(manifests, "NetworkPolicy")["spec"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == ["metrics", "reports"]
    secrets = [rule for rule in only(manifests, "Role")["rules"] if rule["resources"] == ["secrets"]]
    assert [(rule["verbs"], rule.get("resourceNames")) for rule in secrets] == [
        (["create"], None),
        (["get"], [parsed.reports_secret]),
    ]
    without = render(progress={"enabled": False})
    words = ("8443", "--reports", "secrets", "tokenreviews")
    assert [word for word in words if word not in yaml.safe_dump_all(manifests)] == []
    assert [word for word in words if word in yaml.safe_dump_all(without)] == []


def test_one_namespace_or_some_need_no_cluster_role(render):
    manifests = render(watchNamespaces=["team-a", "team-b"], crds={"enabled": False})
    assert not [manifest for manifest in manifests if manifest["kind"].startswith("Cluster")]
    roles = [manifest for manifest in manifests if manifest["kind"] == "Role"]
    *roles, leader = roles
    assert leader["metadata"]["namespace"] == "capstan-system"
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    assert all(
        role["rules"] == only(render(progress={"enabled": False}), "ClusterRole")["rules"] for role in roles
    )
    bindings = [manifest for manifest in manifests if manifest["kind"] == "RoleBinding"]
    assert {binding["subjects"][0]["namespace"] for binding in bindings} == {"capstan-system"}


def test_the_rights_are_few(render):
    rules = [rule for role in render() if role["kind"] == "ClusterRole" for rule in role["rules"]]
    words = {word for rule in rules for word in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])}
    assert not words & {"*", "secrets", "configmaps", "nodes", "namespaces", "deletecollection", "pods/exec"}


def test_one_lease_may_be_written(render):
    manifests = render()
    (container,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    lease = options(parser({}).parse_args(container["args"])).lease_name
    role = only(manifests, "Role")
    leases = [rule for rule in role["rules"] if rule["resources"] == ["leases"]]
    assert [(rule["verbs"], rule.get("resourceNames")) for rule in leases] == [
        (["create"], None),
        (["get", "update"], [lease]),
    ]
    assert only(manifests, "RoleBinding")["roleRef"]["name"] == role["metadata"]["name"]
    (namespace,) = [env for env in container["env"] if env["name"] == "POD_NAMESPACE"]
    assert namespace["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.namespace"
    assert "--lease-namespace=$(POD_NAMESPACE)" in container["args"]


def test_replicas_are_kept_apart_and_one_is_always_left(render):
    manifests = render()
    deployment, budget = only(manifests, "Deployment"), only(manifests, "PodDisruptionBudget")
    assert deployment["spec"]["replicas"] == 2
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["selector"] == deployment["spec"]["selector"]
    pod = deployment["spec"]["template"]["spec"]
    (term,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["labelSelector"] == deployment["spec"]["selector"]
    assert pod["topologySpreadConstraints"][0]["labelSelector"] == deployment["spec"]["selector"]
    alone = render(replicas=1, affinity={"nodeAffinity": {}})
    assert not [m for m in alone if m["kind"] == "PodDisruptionBudget"]
    assert only(alone, "Deployment")["spec"]["template"]["spec"]["affinity"] == {"nodeAffinity": {}}


def test_a_class_of_the_system_comes_with_the_quota_that_some_clouds_want(render):
    manifests = render()
    name = only(manifests, "Deployment")["spec"]["template"]["spec"]["priorityClassName"]
    (scope,) = only(manifests, "ResourceQuota")["spec"]["scopeSelector"]["matchExpressions"]
    assert scope == {"scopeName": "PriorityClass", "operator": "In", "values": [name]}
    for other in ("", "mine"):
        assert not [m for m in render(priorityClassName=other) if m["kind"] == "ResourceQuota"]


def test_selectors_select_the_operator_and_not_the_test(render):
    manifests = render()
    deployment, test = only(manifests, "Deployment"), only(manifests, "Pod")
    selector = deployment["spec"]["selector"]["matchLabels"].items()
    assert only(manifests, "Service")["spec"]["selector"].items() == selector
    assert only(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() == selector
    assert selector <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert not selector <= test["metadata"]["labels"].items()
    assert deployment["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] == "operator"


def test_names_follow_the_release(helm):
    done = helm("template", "ml", CHART, "--namespace", "x")
    assert only(objects(done.stdout), "Deployment")["metadata"]["name"] == "ml-capstan-operator"
    long = helm("template", "r" * 53, CHART, "--namespace", "x")
    assert all(len(manifest["metadata"]["name"]) <= 63 for manifest in objects(long.stdout))


def test_crds_are_kept_and_may_be_left_out(render):
    crds = [m for m in render() if m["kind"] == "CustomResourceDefinition"]
    assert {crd["metadata"]["name"] for crd in crds} == {
        "trainingjobs.capstan.dev",
        "inferenceservices.capstan.dev",
    }
    assert all(crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for crd in crds)
    assert not [m for m in render(crds={"enabled": False}) if m["kind"] == "CustomResourceDefinition"]


def test_crds_are_rendered_as_they_were_generated(render):
    rendered = {m["metadata"]["name"]: m["spec"] for m in render() if m["kind"] == "CustomResourceDefinition"}
    generated = {}
    for path in (ROOT / "manifests/crds").glob("*.yaml"):
        document = yaml.safe_load(path.read_text())
        if document["kind"] == "CustomResourceDefinition":
            generated[document["metadata"]["name"]] = document["spec"]
    assert rendered == generated


def test_generated_files_are_current(tmp_path):
    """Generating again, into a copy, changes nothing."""
    folders = ("charts", "manifests")
    for name in folders:
        shutil.copytree(ROOT / name, tmp_path / name)
    subprocess.run([sys.executable, ROOT / "scripts/generate.py", tmp_path], check=True)
    for name in folders:
        subprocess.run(["diff", "-r", ROOT / name, tmp_path / name], check=True)


def stripped(manifest):
    """Without the labels that say who manages it."""
    manifest["metadata"].get("labels", {}).pop("helm.sh/chart", None)
    manifest["metadata"].get("labels", {}).pop("app.kubernetes.io/managed-by", None)
    manifest["metadata"].get("annotations", {}).pop("helm.sh/resource-policy", None)
    if not manifest["metadata"].get("annotations", True):
        del manifest["metadata"]["annotations"]
    if manifest["kind"] == "CustomResourceDefinition":
        manifest["metadata"] = {"name": manifest["metadata"]["name"]}
    return manifest


def test_kustomize_does_the_same(tool, render):
    command = [tool("kubectl"), "kustomize", ROOT / "manifests/base"]
    base = objects(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    namespace = only(base, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    by_name = {(m["kind"], m["metadata"]["name"]): stripped(m) for m in base if m != namespace}
    chart = {(m["kind"], m["metadata"]["name"]): stripped(m) for m in render("--skip-tests")}
    pod = chart["Deployment", "capstan-operator"]["spec"]["template"]
    stripped(pod | {"kind": "Pod"})
    assert by_name == chart
