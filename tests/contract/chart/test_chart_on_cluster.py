"""The chart as it is installed on a cluster."""

import subprocess

import pytest
from capstan_demo.deploy import NAMESPACE, RELEASE

pytestmark = pytest.mark.cluster


def test_helm_test_passes(installed, kube, tool):
    place = ("--kube-context", kube.context, "--namespace", NAMESPACE)
    command = [tool("helm"), "test", RELEASE, *place, "--timeout", "120s", "--logs"]
    done = subprocess.run(command, env=kube.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "/readyz 200" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("list", "trainingjobs.capstan.dev", "yes"),
        ("update", "inferenceservices.capstan.dev/status", "yes"),
        ("create", "jobs.batch", "yes"),
        ("patch", "networkpolicies.networking.k8s.io", "yes"),
        ("get", "secrets", "no"),
        ("create", "pods", "no"),
        ("update", "trainingjobs.capstan.dev", "no"),
        ("list", "nodes", "no"),
    ],
)
def test_the_operators_rights(installed, kube, verb, resource, allowed):
    user = f"--as=system:serviceaccount:{NAMESPACE}:capstan-operator"
    what, _, part = resource.partition("/")
    command = kube.command("auth", "can-i", verb, what, f"--subresource={part}", user, "--all-namespaces")
    answer = subprocess.run(command, env=kube.environment, capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == allowed, answer.stderr
