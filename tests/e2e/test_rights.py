"""The operator's rights are those that it uses: what the API server noted of it while all other tests ran.

So this comes after them (tests/conftest.py). The log outlives a run, so only what pods of the installed
release have asked counts: judged by itself, it is judged by the last whole run of the very same release.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from capstan_cluster.config import Config
from capstan_demo import deploy
from capstan_demo.kube import Kube, Manifest

pytestmark = [pytest.mark.cluster, pytest.mark.local]

USER = f"system:serviceaccount:{deploy.NAMESPACE}:capstan-operator"
STARTED = datetime.now(UTC).isoformat()
#: What is granted and need not be asked for here, and when it is.
ELSEWHERE = {
    # The admission plug-in that asks for it, OwnerReferencesPermissionEnforcement, is OpenShift's default.
    ("capstan.dev", "trainingjobs/finalizers", "update"),
    ("capstan.dev", "inferenceservices/finalizers", "update"),
    # Somebody has written to a resource while its status was being written.
    ("capstan.dev", "trainingjobs", "get"),
    ("capstan.dev", "inferenceservices", "get"),
    # `networkPolicies` is set to false after it was true.
    ("networking.k8s.io", "networkpolicies", "delete"),
    # The first leader of a cluster.
    ("coordination.k8s.io", "leases", "create"),
    # Its certificate is made once, and then read.
    ("", "secrets", "create"),
}

Right = tuple[str, str, str]


def requests() -> Iterator[Manifest]:
    """What the API server noted of the operator, the rotated log first."""
    log = Config.load().log("audit")
    for path in (*sorted(log.parent.glob("audit-*.log")), log):
        for line in Path(path).read_text().splitlines():
            event: Manifest = json.loads(line)
            if event["user"]["username"] == USER and "objectRef" in event:
                yield event


def asked(event: Manifest) -> set[Right]:
    """The rights that a request needs. To apply what is not there is to create it, too."""
    target = event["objectRef"]
    resource = "/".join(filter(None, (target["resource"], target.get("subresource"))))
    made = event["verb"] == "patch" and event.get("responseStatus", {}).get("code") == 201
    return {(target.get("apiGroup", ""), resource, verb) for verb in (event["verb"], *["create"] * made)}


def granted(kube: Kube) -> set[Right]:
    """What the chart's roles grant."""
    own = [kube.get("clusterrole", name) or {} for name in ("capstan-operator", "capstan-operator-reports")]
    roles = [*own, *kube.list("roles", deploy.NAMESPACE)]
    return {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def replica_sets(kube: Kube) -> set[str]:
    """The names that the installed release's pods begin with: the same template has the same one."""
    return {pod["metadata"]["name"].rpartition("-")[0] for pod in kube.list("pods", deploy.NAMESPACE)}


def asker(event: Manifest) -> str:
    """What the name of the pod that asked begins with."""
    (pod,) = event["user"]["extra"]["authentication.kubernetes.io/pod-name"]
    return str(pod).rpartition("-")[0]


def test_no_right_is_granted_that_nothing_uses(installed, kube: Kube) -> None:
    ours = replica_sets(kube)
    used = {right for event in requests() if asker(event) in ours for right in asked(event)}
    assert granted(kube) - used <= ELSEWHERE, "remove it from charts/capstan/templates/_helpers.tpl"


def test_nothing_was_asked_for_that_is_not_granted(installed, kube: Kube) -> None:
    refused = {
        right
        for event in requests()
        if event["requestReceivedTimestamp"] >= STARTED
        and event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid"
        for right in asked(event)
    }
    # An API server that has just begun refuses what it will grant a moment later.
    assert refused - granted(kube) == set()
