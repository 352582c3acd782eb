"""The operator itself: killed at any moment it loses nothing, and at rest it writes nothing."""

import json
import time
import urllib.request

import pytest
from capstan_demo.deploy import NAMESPACE
from capstan_demo.environment import Environment
from capstan_demo.kube import Kube, Manifest, until

from tests.e2e.test_training import PRINT_AND_STOP, finished, phase, training_job

pytestmark = pytest.mark.cluster

OPERATOR = "app.kubernetes.io/component=operator"


def operator_pod(kube: Kube) -> Manifest:
    return next(p for p in kube.list("pods", NAMESPACE, OPERATOR) if "deletionTimestamp" not in p["metadata"])


def kill(kube: Kube) -> None:
    """Kill the operator without a warning."""
    pods = [p["metadata"]["name"] for p in kube.list("pods", NAMESPACE, OPERATOR)]
    if pods:
        kube.run("delete", "pod", "-n", NAMESPACE, "--force", "--grace-period=0", *pods)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.0, 0.3, 0.8, 1.5, 3.0])
def test_killed_at_any_moment_the_operator_loses_nothing(
    installed: Environment, kube: Kube, namespace: str, moment: float
) -> None:
    kube.apply(training_job(installed, PRINT_AND_STOP, replicas=2), namespace=namespace)
    time.sleep(moment)  # the moments are what is tested
    kill(kube)
    job = kube.wait("trainingjob", "job", namespace, finished, seconds=180)
    assert phase(job) == "Succeeded"
    assert job["status"]["attempt"] == 1
    assert len(kube.list("jobs", namespace, "capstan.dev/name=job")) == 1
    kube.run(
        "rollout", "status", "-n", NAMESPACE, "deployment", "-l", OPERATOR, "--timeout=120s", timeout=130
    )


def versions(kube: Kube, namespace: str) -> dict[str, str]:
    """The resourceVersion of every object in a namespace that the operator writes."""
    kinds = "trainingjobs,inferenceservices,services,jobs,deployments,networkpolicies,events"
    items = json.loads(kube.run("get", kinds, "-n", namespace, "-o", "json"))["items"]
    ours = [i for i in items if i["kind"] != "Event" or i.get("reportingComponent") == "capstan-operator"]
    return {f"{i['kind']}/{i['metadata']['name']}": i["metadata"]["resourceVersion"] for i in ours}


def passes(kube: Kube) -> float:
    """How many passes the operator has made over resources that were there."""
    made = 0.0
    for pod in kube.list("pods", NAMESPACE, OPERATOR):
        with (
            kube.port_forward(f"pod/{pod['metadata']['name']}", NAMESPACE, 8080) as ports,
            urllib.request.urlopen(f"http://127.0.0.1:{ports[8080]}/metrics", timeout=30) as answer,
        ):
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.startswith("capstan_operator_reconciles_total{")]
        made += sum(float(line.split()[-1]) for line in found if 'outcome="gone"' not in line)
    return made


def test_at_rest_nothing_is_written_also_by_an_operator_that_begins_anew(
    installed: Environment, kube: Kube, namespace: str
) -> None:
    """Pods that nobody schedules keep resources at rest, children and all, without running a container."""
    held = {"spec": {"schedulerName": "nobody"}}
    resources = []
    for number in range(20):
        job = training_job(installed, PRINT_AND_STOP, template=held)
        service = {
            **job,
            "kind": "InferenceService",
            "spec": {"model": {"uri": "pvc://a/b"}, "template": held},
        }
        made = service if number % 2 else job
        resources.append({**made, "metadata": {"name": f"r-{number}"}})
    kube.apply(*resources, namespace=namespace)
    until(
        lambda: len(kube.list("pods", namespace, "app.kubernetes.io/managed-by=capstan")) == 20, seconds=120
    )
    last, since = versions(kube, namespace), time.monotonic()

    def quiet() -> bool:
        nonlocal last, since
        now = versions(kube, namespace)
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > 6

    until(quiet, seconds=120)
    kill(kube)
    kube.run(
        "rollout", "status", "-n", NAMESPACE, "deployment", "-l", OPERATOR, "--timeout=120s", timeout=130
    )
    until(lambda: passes(kube) >= 20, seconds=60)
    assert versions(kube, namespace) == last
