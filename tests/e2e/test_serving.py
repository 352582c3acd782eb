"""An InferenceService's life on a real cluster: served, replaced, broken and healed."""

import base64
import hashlib

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from capstan_demo.environment import Environment
from capstan_demo.kube import Kube, KubectlError, Manifest, condition, until
from onnx import TensorProto, helper

pytestmark = pytest.mark.cluster

CLAIM: Manifest = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "models"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
}


def adder(constant: float) -> bytes:
    """A model that adds a constant to a [-1, 2] tensor."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "c"], ["y"])],
        "adder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor("c", TensorProto.FLOAT, [1], [constant])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


WRITE = """
import base64, pathlib, sys
path = pathlib.Path("/models", sys.argv[1])
path.parent.mkdir(parents=True, exist_ok=True)
path.write_bytes(base64.b64decode(sys.argv[2]))
"""


def write(kube: Kube, environment: Environment, namespace: str, path: str, content: bytes) -> None:
    """Put a file on the claim, from a pod as a user would."""
    container = {
        "name": "writer",
        "image": environment.images["operator"],
        "command": ["python3", "-c", WRITE, path, base64.b64encode(content).decode()],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "models", "mountPath": "/models"}],
    }
    security = {"runAsNonRoot": True, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    volume = {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
    spec = {
        "restartPolicy": "Never",
        "securityContext": security,
        "containers": [container],
        "volumes": [volume],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "writer"}, "spec": spec}
    kube.apply(CLAIM, pod, namespace=namespace)
    done = kube.wait(
        "pod", "writer", namespace, lambda p: p.get("status", {}).get("phase") in ("Succeeded", "Failed")
    )
    assert done["status"]["phase"] == "Succeeded", kube.run("logs", "-n", namespace, "writer")
    kube.delete("pod", "writer", namespace)


def service(uri: str, **model: object) -> Manifest:
    return {
        "apiVersion": "capstan.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "adder"},
        "spec": {"model": {"uri": uri, **model}},
    }


def ready(resource: Manifest) -> bool:
    current = resource.get("status", {}).get("observedGeneration") == resource["metadata"]["generation"]
    return current and condition(resource, "Ready").get("status") == "True"


def because(kind: str, reason: str):
    def met(resource: Manifest) -> bool:
        found = condition(resource, kind)
        return found.get("status") == "False" and found.get("reason") == reason

    return met


def answer(kube: Kube, namespace: str) -> tuple[float, float]:
    """What 1 + the model's constant is, over HTTP and over gRPC."""
    with kube.port_forward("service/adder", namespace, 8000, 8001) as ports:
        found = []
        for module, port in ((tritonclient.http, ports[8000]), (tritonclient.grpc, ports[8001])):
            client = module.InferenceServerClient(f"127.0.0.1:{port}")
            x = module.InferInput("x", [1, 2], "FP32")
            x.set_data_from_numpy(np.ones((1, 2), np.float32))
            found.append(float(client.infer("adder", [x]).as_numpy("y")[0, 0]))
            client.close()
    return found[0], found[1]


def test_a_model_on_a_volume_is_served_and_a_new_one_takes_over(
    installed, kube: Kube, namespace: str
) -> None:
    first, second = adder(1), adder(2)
    write(kube, installed, namespace, "one.onnx", first)
    write(kube, installed, namespace, "two.onnx", second)
    kube.apply(service("pvc://models/one.onnx", digest=digest(first)), namespace=namespace)
    served = kube.wait("inferenceservice", "adder", namespace, ready)
    assert served["status"]["model"]["digest"] == digest(first)
    assert answer(kube, namespace) == (2, 2)

    kube.apply(service("pvc://models/two.onnx"), namespace=namespace)
    kube.wait("inferenceservice", "adder", namespace, ready)
    assert answer(kube, namespace) == (3, 3)
    until(lambda: len(kube.list("deployments", namespace, "capstan.dev/name=adder")) == 1, seconds=60)


def test_a_broken_revision_leaves_the_one_in_use_alone(installed, kube: Kube, namespace: str) -> None:
    write(kube, installed, namespace, "one.onnx", adder(1))
    kube.apply(service("pvc://models/one.onnx"), namespace=namespace)
    kube.wait("inferenceservice", "adder", namespace, ready)
    kube.apply(service("pvc://models/absent.onnx"), namespace=namespace)
    kube.wait("inferenceservice", "adder", namespace, because("RevisionReady", "ModelNotFound"))
    assert answer(kube, namespace) == (2, 2)
    kube.apply(service("pvc://models/one.onnx"), namespace=namespace)
    kube.wait(
        "inferenceservice",
        "adder",
        namespace,
        lambda r: ready(r) and condition(r, "RevisionReady")["status"] == "True",
    )


def test_a_model_that_is_not_there_is_named_and_heals(installed, kube: Kube, namespace: str) -> None:
    write(kube, installed, namespace, "other.onnx", adder(1))
    kube.apply(service("pvc://models/late.onnx"), namespace=namespace)
    resource = kube.wait("inferenceservice", "adder", namespace, because("Ready", "ModelNotFound"))
    assert "late.onnx" in condition(resource, "Ready")["message"]
    write(kube, installed, namespace, "late.onnx", adder(4))
    kube.wait("inferenceservice", "adder", namespace, ready, seconds=240)
    assert answer(kube, namespace) == (5, 5)


def test_a_corrupt_model_is_said_so_and_heals(installed, kube: Kube, namespace: str) -> None:
    write(kube, installed, namespace, "model.onnx", adder(1)[:-7])
    kube.apply(service("pvc://models/model.onnx"), namespace=namespace)
    resource = kube.wait("inferenceservice", "adder", namespace, because("Ready", "ModelLoadFailed"))
    assert "model.onnx" in condition(resource, "Ready")["message"]
    write(kube, installed, namespace, "model.onnx", adder(4))
    kube.wait("inferenceservice", "adder", namespace, ready, seconds=240)
    assert answer(kube, namespace) == (5, 5)


def test_a_model_with_another_digest_is_refused(installed, kube: Kube, namespace: str) -> None:
    write(kube, installed, namespace, "model.onnx", adder(1))
    kube.apply(service("pvc://models/model.onnx", digest="sha256:" + "0" * 64), namespace=namespace)
    resource = kube.wait("inferenceservice", "adder", namespace, because("Ready", "DigestMismatch"))
    assert digest(adder(1)) in condition(resource, "Ready")["message"]


def test_a_claim_that_does_not_exist_is_named(installed, kube: Kube, namespace: str) -> None:
    kube.apply(service("pvc://nowhere/model.onnx"), namespace=namespace)
    resource = kube.wait(
        "inferenceservice",
        "adder",
        namespace,
        lambda r: bool(condition(r, "Ready").get("message", "").count("nowhere")),
    )
    assert condition(resource, "Ready")["status"] == "False"


def test_a_training_job_that_is_not_there_yet_is_waited_for(installed, kube: Kube, namespace: str) -> None:
    waiting = service("")
    waiting["spec"]["model"] = {"fromTrainingJob": {"name": "later"}}
    kube.apply(waiting, namespace=namespace)
    resource = kube.wait("inferenceservice", "adder", namespace, because("Ready", "TrainingJobNotFound"))
    assert "later" in condition(resource, "Ready")["message"]


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({}, "fromTrainingJob"),
        ({"uri": "pvc://a/b.onnx", "fromTrainingJob": {"name": "a"}}, "fromTrainingJob"),
        ({"uri": "pvc://a/../../etc/passwd"}, "uri"),
        ({"uri": "http://example.com/model.onnx"}, "https://"),
        ({"uri": "https://user:password@example.com/model.onnx"}, "credentials"),
        ({"uri": "s3://bucket/../model.onnx"}, "s3://"),
        ({"uri": "pvc://a/b.onnx", "digest": "md5:1"}, "digest"),
        ({"uri": 7}, "uri"),
    ],
)
def test_an_impossible_model_is_refused_with_a_sentence(
    installed, kube: Kube, namespace: str, model: dict[str, object], sentence: str
) -> None:
    bad = service("")
    bad["spec"]["model"] = model
    with pytest.raises(KubectlError, match=sentence):
        kube.apply(bad, namespace=namespace)


def test_a_server_image_that_does_not_exist_is_named_and_heals(installed, kube: Kube, namespace: str) -> None:
    write(kube, installed, namespace, "one.onnx", adder(1))
    bad = service("pvc://models/one.onnx")
    bad["spec"]["runtime"] = {"image": "localhost/capstan/nothing-of-this-name:1"}
    kube.apply(bad, namespace=namespace)
    resource = kube.wait("inferenceservice", "adder", namespace, because("Ready", "ImagePullFailed"))
    assert "nothing-of-this-name" in condition(resource, "Ready")["message"]
    kube.apply(service("pvc://models/one.onnx"), namespace=namespace)
    kube.wait("inferenceservice", "adder", namespace, ready)


def test_deleting_the_resource_mid_start_deletes_all_of_it(installed, kube: Kube, namespace: str) -> None:
    write(kube, installed, namespace, "one.onnx", adder(1))
    kube.apply(service("pvc://models/one.onnx"), namespace=namespace)
    until(lambda: bool(kube.list("deployments", namespace, "capstan.dev/name=adder")), seconds=60)
    kube.delete("inferenceservice", "adder", namespace)
    for kind in ("deployments", "pods", "services"):
        until(lambda kind=kind: not kube.list(kind, namespace, "capstan.dev/name=adder"), seconds=90)


def test_children_deleted_by_hand_come_back(installed, kube: Kube, namespace: str) -> None:
    write(kube, installed, namespace, "one.onnx", adder(1))
    kube.apply(service("pvc://models/one.onnx"), namespace=namespace)
    kube.wait("inferenceservice", "adder", namespace, ready)
    deployment = kube.list("deployments", namespace, "capstan.dev/name=adder")[0]["metadata"]["name"]
    kube.delete("service", "adder", namespace)
    kube.delete("deployment", deployment, namespace)
    kube.wait("service", "adder", namespace, lambda _: True)
    kube.wait("inferenceservice", "adder", namespace, ready)
    assert answer(kube, namespace) == (2, 2)
