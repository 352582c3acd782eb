"""Models and data from where they are kept, and what is said when they cannot be had."""

import pytest
from capstan_demo.kube import Kube, Manifest, condition

from tests.e2e.test_serving import because, service, write
from tests.e2e.test_training import finished, phase, training_job

pytestmark = pytest.mark.cluster

READ_BUT_NOT_WRITE = """
import os, pathlib
folder = pathlib.Path(os.environ["CAPSTAN_DATA_LABELS"])
assert folder == pathlib.Path("/data/labels"), folder
assert (folder / "names.txt").read_text() == "zero", list(folder.iterdir())
try:
    (folder / "more.txt").write_text("x")
except OSError:
    print("read-only")
else:
    raise SystemExit("the data can be changed")
"""


def data(uri: str, **more: object) -> Manifest:
    return {"name": "labels", "uri": uri, "mountPath": "/data/labels", **more}


def test_data_on_a_volume_is_read_where_it_is(installed, kube: Kube, namespace: str) -> None:
    write(kube, installed, namespace, "sets/labels/names.txt", b"zero")
    command = ["python3", "-c", READ_BUT_NOT_WRITE]
    kube.apply(training_job(installed, command, data=[data("pvc://models/sets/labels")]), namespace=namespace)
    job = kube.wait("trainingjob", "job", namespace, finished)
    assert phase(job) == "Succeeded", job["status"]
    policy = kube.get("networkpolicy", "job-peers", namespace)
    assert policy is not None
    assert [port["port"] for port in policy["spec"]["ingress"][1]["ports"]] == [8003]


def test_a_secret_that_is_not_there_is_named(installed, kube: Kube, namespace: str) -> None:
    secret = {"secretRef": {"name": "nowhere"}}
    kube.apply(service("s3://models/one.onnx", credentials=secret), namespace=namespace)
    kube.apply(
        training_job(installed, ["true"], data=[data("s3://models/labels", credentials=secret)]),
        namespace=namespace,
    )
    for kind, name in (("inferenceservice", "adder"), ("trainingjob", "job")):
        resource = kube.wait(kind, name, namespace, because("Ready", "ContainerConfigInvalid"))
        message = condition(resource, "Ready")["message"]
        assert 'secret "nowhere" not found' in message
        assert "credentials.secretRef" in message
