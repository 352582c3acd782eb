"""The operator itself: killed at any moment it loses nothing, and at rest it writes nothing."""

import time

import pytest
from capstan_demo.deploy import NAMESPACE
from capstan_demo.environment import Environment
from capstan_demo.kube import Kube, Manifest

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
