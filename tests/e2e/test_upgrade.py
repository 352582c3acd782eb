"""A release's whole life on a real cluster while a model is served and a job trains: neither restarts.

The release is the one that all tests share, so it is the present one again at the end, whatever happens here.
"""

import base64
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http
from capstan_cluster.target import resolve
from capstan_demo import deploy, environment
from capstan_demo.environment import Environment, Published, published
from capstan_demo.kube import Kube, Manifest, condition, until
from capstan_images import engines
from capstan_images.commands import run
from onnx import TensorProto, helper

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]  # five releases, each with pods to wait for

BEFORE = Path(__file__).parents[1] / "upgrade" / "0.1.0"
CRDS = ("trainingjobs.capstan.dev", "inferenceservices.capstan.dev")
MADE_FROM, SPEC_HASH = "capstan.dev/made-from", "capstan.dev/spec-hash"

OPERATOR = """
FROM {image}
USER 0
COPY *.whl /tmp/
RUN site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \\
    && rm -r "$site"/capstan_operator* && python3 -m zipfile -e /tmp/*.whl "$site" && rm /tmp/*.whl
USER 65532:65532
"""
RENAMED = 'FROM {image}\nLABEL capstan.dev/release="0.1.0"\n'


@pytest.fixture(scope="module")
def images_before(installed: Environment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The images of 0.1.0: made of the present ones, or those of REGISTRY where it is given."""
    target = resolve(os.environ.get("CONTEXT") or None, say=print)
    there = published(tag="0.1.0") or (Published(tag="0.1.0") if target.loads == "none" else None)
    if there:
        return there.references()
    docker = target.loads in ("kind", "k3d")
    engine: engines.Engine = engines.Docker() if docker else engines.Buildah()
    build = ["docker", "build"] if docker else ["buildah", "build", "--isolation", "chroot", "--pull=never"]
    found = {}
    for name in ("operator", "serving", "agent"):
        image = installed.images[name]
        found[name] = f"{image}-0.1.0"
        if not engine.has(found[name]):
            recipe = tmp_path_factory.mktemp(name) / "Dockerfile"
            recipe.write_text((OPERATOR if name == "operator" else RENAMED).format(image=image))
            run([*build, "--quiet", "--tag", found[name], "--file", recipe, BEFORE])
    target.load(*found.values())
    return found


@dataclass
class Release:
    """The shared release, and how it becomes another version of itself."""

    kube: Kube
    helm: str
    now: dict[str, str]
    before: dict[str, str]

    def become_0_1_0(self) -> None:
        deploy.install(self.kube, self.helm, self.before, print, BEFORE / "capstan-0.1.0.tgz")

    def become_the_present_one(self) -> None:
        deploy.install(self.kube, self.helm, self.now, print)

    def uninstall(self) -> str:
        command = [self.helm, "uninstall", deploy.RELEASE, "--namespace", deploy.NAMESPACE, "--wait",
                   "--kube-context", self.kube.context]  # fmt: skip
        done = subprocess.run(
            command, env=self.kube.environment, capture_output=True, text=True, check=True, timeout=180
        )
        return done.stdout + done.stderr


@pytest.fixture
def release(installed: Environment, kube: Kube, images_before: dict[str, str]) -> Iterator[Release]:
    it = Release(kube, environment.helm(print), dict(installed.images), images_before)
    yield it
    it.become_the_present_one()


@dataclass
class Client:
    """Asks again and again, over one connection to one pod, and notes what went wrong."""

    answers: int = 0
    errors: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, port: int) -> None:
        client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}")
        x = tritonclient.http.InferInput("x", [1, 2], "FP32")
        x.set_data_from_numpy(np.ones((1, 2), np.float32))
        while not self.stop.wait(0.05):
            try:
                assert float(client.infer("adder", [x]).as_numpy("y")[0, 0]) == 2
                self.answers += 1
            except Exception as error:  # noqa: BLE001  (whatever it is, the test wants to know)
                self.errors.append(repr(error))
                self.stop.wait(1)

    def has_gone_on_answering(self) -> None:
        """Assert that all was answered so far, and that the next one is, too."""
        before = self.answers
        until(lambda: self.answers > before or bool(self.errors), seconds=30)
        assert not self.errors, self.errors[:3]


@pytest.fixture
def client(kube: Kube, namespace: str) -> Iterator[Callable[[], Client]]:
    """Starts a client of the Service `adder`, once that answers."""
    with ExitStack() as stack:

        def start() -> Client:
            ports = stack.enter_context(kube.port_forward("service/adder", namespace, 8000))
            it = Client()
            thread = threading.Thread(target=it.ask, args=(ports[8000],))
            stack.callback(thread.join, 30)
            stack.callback(it.stop.set)
            thread.start()
            return it

        yield start


def model() -> str:
    """A model that adds 1 to a [-1, 2] tensor, in base64."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        "adder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return base64.b64encode(made.SerializeToString()).decode()


CLAIM: Manifest = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "models"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
}
WRITE = """
import base64, os, pathlib, sys
folder = pathlib.Path(os.environ["CAPSTAN_OUTPUT_DIR"])
folder.mkdir(parents=True, exist_ok=True)
(folder / "model.onnx").write_bytes(base64.b64decode(sys.argv[1]))
"""
#: What 0.1.0 does not know.
NEW_FIELD: Manifest = {"data": [{"name": "set", "uri": "pvc://models/adder", "mountPath": "/set"}]}
FOREVER = "import signal; print('up', flush=True); signal.pause()"


def job(name: str, image: str, *code: str, **spec: object) -> Manifest:
    return {
        "apiVersion": "capstan.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {"framework": "custom", "image": image, "command": ["python3", "-c", *code], **spec},
    }


ADDER: Manifest = {
    "apiVersion": "capstan.dev/v1alpha1",
    "kind": "InferenceService",
    "metadata": {"name": "adder"},
    "spec": {"model": {"fromTrainingJob": {"name": "prepare"}}},
}


def phase(*wanted: str) -> Callable[[Manifest], bool]:
    return lambda resource: resource.get("status", {}).get("phase") in wanted


def running_pods(kube: Kube, namespace: str) -> dict[str, tuple[str, int]]:
    """What a restart would change: each pod's UID, and how often its containers were started again."""
    return {
        pod["metadata"]["name"]: (
            pod["metadata"]["uid"],
            sum(status["restartCount"] for status in pod["status"]["containerStatuses"]),
        )
        for pod in kube.list("pods", namespace)
        if pod["status"]["phase"] == "Running"
    }


@dataclass
class Workloads:
    """What runs while the release changes under it."""

    kube: Kube
    namespace: str
    pods: dict[str, tuple[str, int]] = field(default_factory=dict)

    def all_say(self, annotation: str) -> None:
        """Wait until the operator that writes an annotation has been at all Jobs and Deployments that run."""

        def looked_at() -> bool:
            controllers = [
                *self.kube.list("deployments", self.namespace),
                *(j for j in self.kube.list("jobs", self.namespace) if j["status"].get("active")),
            ]
            return all(annotation in c["metadata"]["annotations"] for c in controllers)

        until(looked_at, seconds=60)

    def are_untouched(self) -> None:
        """Assert that every pod is the same one, and that the resources' statuses say what is so."""
        assert running_pods(self.kube, self.namespace) == self.pods
        for found in self.kube.list("trainingjobs", self.namespace):
            if found["metadata"]["name"] != "prepare":
                assert (found["status"]["phase"], found["status"]["attempt"]) == ("Running", 1)
        adder = self.kube.get("inferenceservice", "adder", self.namespace) or {}
        assert condition(adder, "Ready")["status"] == "True", adder
        assert list(adder["status"]["revisions"]) == ["stable"]
        assert adder["status"]["observedGeneration"] == adder["metadata"]["generation"]


def bears(annotation: str, *, not_any_more: str) -> Callable[[Manifest], bool]:
    """Whether a child is as one release applies it: what only the other one renders is pruned."""

    def met(child: Manifest) -> bool:
        found = child["metadata"]["annotations"]
        return annotation in found and not_any_more not in found

    return met


def operator_is_well(kube: Kube) -> None:
    """Assert that the operator has not crashed, and has met no error that it takes for a bug."""
    pods = kube.list("pods", deploy.NAMESPACE, "app.kubernetes.io/component=operator")
    for pod in pods:
        if "deletionTimestamp" not in pod["metadata"]:
            assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
            assert '"outcome": "error"' not in kube.run(
                "logs", "-n", deploy.NAMESPACE, pod["metadata"]["name"]
            )


def test_nothing_restarts_while_the_release_changes(
    installed: Environment,
    kube: Kube,
    namespace: str,
    release: Release,
    client: Callable[[], Client],
) -> None:
    image = installed.images["operator"]
    work = Workloads(kube, namespace)
    release.become_0_1_0()
    kube.apply(
        CLAIM,
        job("prepare", image, WRITE, model(), output={"uri": "pvc://models/adder"}),
        job("older", image, FOREVER, replicas=2),
        ADDER,
        namespace=namespace,
    )
    kube.wait("inferenceservice", "adder", namespace, phase("Ready"), seconds=240)
    kube.wait("trainingjob", "older", namespace, phase("Running"))
    kube.wait("trainingjob", "prepare", namespace, phase("Succeeded"))
    work.all_say("capstan.dev/rendered")
    work.pods = running_pods(kube, namespace)
    assert len(work.pods) == 3
    clients = client()

    # Upgrade: other images, more fields.
    release.become_the_present_one()
    work.all_say(MADE_FROM)
    kube.wait("job", "older-worker-1", namespace, bears(MADE_FROM, not_any_more=SPEC_HASH))
    work.are_untouched()
    clients.has_gone_on_answering()
    operator_is_well(kube)
    kube.apply(job("newer", image, FOREVER, **NEW_FIELD), namespace=namespace)
    newer = kube.wait("trainingjob", "newer", namespace, phase("Running"))
    assert newer["spec"]["data"] == NEW_FIELD["data"]
    work.pods = running_pods(kube, namespace)
    assert len(work.pods) == 4

    # Downgrade: 0.1.0 says so on every Job that it takes over.
    release.become_0_1_0()
    jobs = ("older-worker-1", "newer-worker-1")
    for name in jobs:
        kube.wait("job", name, namespace, bears(SPEC_HASH, not_any_more=MADE_FROM))
    work.are_untouched()
    clients.has_gone_on_answering()
    operator_is_well(kube)

    # And up again.
    release.become_the_present_one()
    work.all_say(MADE_FROM)
    work.are_untouched()
    clients.has_gone_on_answering()
    operator_is_well(kube)

    # Uninstalling keeps the CRDs and all that is of their kinds, and says so.
    said = release.uninstall()
    for crd in CRDS:
        assert crd in said
        assert kube.get("crd", crd)
    assert "kept" in said
    work.are_untouched()
    clients.has_gone_on_answering()

    # A new installation takes over what it finds.
    release.become_the_present_one()
    kube.delete("service", "adder", namespace)
    kube.wait("service", "adder", namespace, lambda _: True)
    work.all_say(MADE_FROM)
    work.are_untouched()
    clients.has_gone_on_answering()
    assert clients.answers > 50
