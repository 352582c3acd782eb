"""The samples that the demo does not run, as they stand but for what depends on the cluster."""

import copy

import pytest
import tritonclient.http
import yaml
from capstan_demo.digits import sample
from capstan_demo.kube import Kube

from tests.e2e.test_serving import CLAIM, adder, ready, write
from tests.e2e.test_training import finished, phase

pytestmark = pytest.mark.cluster


def test_the_custom_training_job(installed, kube: Kube, namespace: str) -> None:
    (job,) = sample("trainingjob-custom.yaml")
    job["spec"]["image"] = installed.images["operator"]
    kube.apply(job, namespace=namespace)
    assert phase(kube.wait("trainingjob", "hello", namespace, finished)) == "Succeeded"
    said = kube.run("logs", "-n", namespace, "-l", "capstan.dev/name=hello", "-c", "trainer", "--tail=-1")
    assert said.count("one of 3") == 3
    assert "Hello from hello-worker-1-2.hello-peers" in said


@pytest.mark.parametrize(
    "name", ["inferenceservice-s3.yaml", "trainingjob-data.yaml", "trainingjob-resilient.yaml"]
)
def test_what_comes_from_elsewhere_is_accepted(installed, kube: Kube, namespace: str, name: str) -> None:
    """There is no such bucket, host or node here, so the API server alone is asked."""
    accepted = kube.run(
        "apply",
        "--dry-run=server",
        "-n",
        namespace,
        "-o",
        "name",
        "-f",
        "-",
        stdin=yaml.safe_dump_all(sample(name)),
    )
    assert accepted.split() == [
        f"{document['kind'].lower()}.capstan.dev/{document['metadata']['name']}" for document in sample(name)
    ]


def test_the_inference_service_of_a_volume(installed, kube: Kube, namespace: str) -> None:
    (service,) = copy.deepcopy(sample("inferenceservice-pvc.yaml"))
    service["spec"]["accelerator"]["type"] = "nvidia-a100"  # what the local node has,
    service["spec"]["resources"]["requests"]["cpu"] = "100m"  # and two processors in all
    kube.apply(CLAIM, namespace=namespace)
    write(kube, installed, namespace, "resnet50/model.onnx", adder(1))
    kube.apply(service, namespace=namespace)
    served = kube.wait("inferenceservice", "resnet50", namespace, ready)
    assert served["status"]["replicas"] == {"desired": 2, "ready": 2}
    assert served["status"]["model"]["version"] == "3"
    with kube.port_forward("service/resnet50", namespace, 8000) as ports:
        assert tritonclient.http.InferenceServerClient(f"127.0.0.1:{ports[8000]}").is_model_ready(
            "resnet", "3"
        )
